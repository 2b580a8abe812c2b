package pluginbuild_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

func BenchmarkLookup(b *testing.B) {
	v := semver.MustParse("5.2.5")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pluginbuild.Lookup(v); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckModule checks a plugin of a hundred packages that requires two
// hundred modules, as many as the gateway.
func BenchmarkCheckModule(b *testing.B) {
	r := lookup(b, "5.2.5")
	var requires strings.Builder
	for i := range 200 {
		fmt.Fprintf(&requires, "require example.org/dep%d v1.0.%d\n", i, i)
	}
	src := pluginFS("module example.org/plugin\n\ngo 1.19\n\n"+requires.String(), nil)
	for i := range 100 {
		src[fmt.Sprintf("p%d/p.go", i)] = src["main.go"]
	}
	gateway := "module " + pluginbuild.Module + "\n\ngo 1.19\n\n" + requires.String()
	b.ReportAllocs()
	for b.Loop() {
		findings, err := pluginbuild.CheckModule(src, r, pluginbuild.CheckOptions{
			GatewayMod: strings.NewReader(gateway)})
		if err != nil || summary(findings) != "info hook" {
			b.Fatal(findings, err)
		}
	}
}

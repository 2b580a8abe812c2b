package compiler_test

import (
	"testing"
	"time"

	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// BenchmarkCompile compiles the plugin of Tyk's documentation: with empty
// caches, as docker run does each time, and with the caches of an earlier
// build. The ratio is reported too.
func BenchmarkCompile(b *testing.B) {
	var cold, warm time.Duration
	e := newBench(b)
	dir, img := plugin(b, fooBar), pluginbuild.Image{Ref: e.image(b, stub.Config{})}
	compile := func(b *testing.B, caches string) {
		if _, err := e.build(b, compiler.Request{Dir: dir, Image: img},
			func(o *compiler.Options) { o.Caches = caches }); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			compile(b, "none")
		}
		cold = b.Elapsed() / time.Duration(b.N)
	})
	b.Run("warm", func(b *testing.B) {
		compile(b, e.caches)
		for b.Loop() {
			compile(b, e.caches)
		}
		warm = b.Elapsed() / time.Duration(b.N)
		b.ReportMetric(float64(cold)/float64(warm), "x-faster")
	})
}

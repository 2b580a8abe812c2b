package pluginbuild_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

// derived is a release that the table lacks.
func derived(t *testing.T, version string) pluginbuild.Release {
	t.Helper()
	v, err := pluginbuild.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pluginbuild.Derive(v, strings.Repeat("ab", 20))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Which versions have a next-generation compiler, and what it is called.
func TestNextCompiler(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"5.13.2~rc4": true, "5.13.3": true, "5.14.1": false, "5.15.0-alpha12": true, "5.15.0": true,
		"6.0.0": true, "5.12.9": false,
	} {
		r := derived(t, version)
		ref, err := pluginbuild.Image{Variant: pluginbuild.NextGen, Edition: pluginbuild.FIPS}.Reference(
			r)
		if !want {
			if !errors.Is(err, pluginbuild.ErrUnsupported) || r.Next != nil {
				t.Errorf("%s: %s, %v", version, ref, err)
			}
			continue
		}
		if w := "tykio/tyk-plugin-compiler-fips:" + r.Tag() + "-ng"; err != nil || ref != w {
			t.Errorf("%s: %s, %v, want %s", version, ref, err, w)
		}
		if classic, err := (pluginbuild.Image{}).Reference(r); err != nil ||
			classic != "tykio/tyk-plugin-compiler:"+r.Tag() {
			t.Errorf("%s: the classic one is %s, %v", version, classic, err)
		}
		next, err := r.WithVariant(pluginbuild.NextGen)
		if err != nil {
			t.Fatal(err)
		}
		for arch, editions := range map[string][2]bool{"amd64": {true, true}, "arm64": {true, true},
			"s390x": {true, false}, "mips": {}} {
			if c := next.Compiler; c.Crosses(arch, "") != editions[0] ||
				c.Crosses(arch, pluginbuild.Enterprise) != editions[1] {
				t.Errorf("%s: compiles for %s: %v and %v", version, arch, c.Crosses(arch, ""), c.Crosses(arch,
					pluginbuild.Enterprise))
			}
		}
		if c := next.Compiler; c.RenamesModule || !c.CreatesModule() || c.Gateway || c.Glibc != "2.17" ||
			c.Source == "" || len(c.Platforms()) != 2 {
			t.Errorf("%s: %+v", version, c)
		}
		if _, err := next.WithVariant(pluginbuild.Classic); !errors.Is(err, pluginbuild.ErrUnsupported) {
			t.Errorf("%s: from next to classic: %v", version, err)
		}
	}
	if _, err := (pluginbuild.Image{Variant: "old"}).Reference(lookup(t, "5.14.0")); !errors.Is(err,
		pluginbuild.ErrRequest) || !strings.Contains(err.Error(), "want classic or ng") {
		t.Errorf("%v", err)
	}
	// A release with nothing else needs no option.
	r := derived(t, "5.15.0")
	r.Compiler = pluginbuild.Compiler{}
	if ref, err := (pluginbuild.Image{}).Reference(r); err != nil ||
		ref != "tykio/tyk-plugin-compiler:v5.15.0-ng" || r.Validate() != nil {
		t.Errorf("%s, %v, %v", ref, err, r.Validate())
	}
	if p, err := pluginbuild.NewPlan(pluginFS("module example.org/p\n\ngo 1.25\n", nil), r,
		pluginbuild.PlanOptions{}); err != nil || !strings.HasSuffix(p.Image, "-ng") ||
		p.Output != "plugin_v5.15.0_linux_amd64.so" {
		t.Errorf("%+v, %v", p, err)
	}
	// What the table reader refuses.
	r.Next = nil
	if err := r.Validate(); err == nil || !strings.Contains(err.Error(), "no compiler mode") {
		t.Errorf("%v", err)
	}
	// The entry that a repository gives is the one to commit.
	var entry strings.Builder
	if err := (pluginbuild.Table{derived(t, "5.15.0-rc7")}).Write(&entry); err != nil ||
		strings.Count(entry.String(), "\n") != 3 || !strings.Contains(entry.String(), `"variant":"ng"`) {
		t.Errorf("%v: %s", err, entry.String())
	}
	back, err := pluginbuild.ReadTable(strings.NewReader(entry.String()))
	if err != nil || len(back) != 1 || !back[0].Version.Equal(semver.MustParse("5.15.0-rc7")) {
		t.Errorf("%v, %v", back, err)
	}
}

// What the classic script leaves out or changes the next one does not.
func TestCheckForNextCompiler(t *testing.T) {
	t.Parallel()
	src := pluginFS("module example.org/plugin\n\ngo 1.99\n\ntoolchain go1.99.0\n", map[string]string{
		".hidden": "x", "embed.go": "package main\n\nimport _ \"embed\"\n\n//go:embed .hidden\nvar " +
			"hidden string\n",
	})
	r := derived(t, "5.15.0")
	for v, want := range map[pluginbuild.Variant]string{
		pluginbuild.Classic: "error go-directive*, error toolchain*, error embed",
		pluginbuild.NextGen: "warning release, warning go-directive*, warning toolchain*",
	} {
		p, err := pluginbuild.NewPlan(src, r, pluginbuild.PlanOptions{Image: pluginbuild.Image{
			Variant: v}})
		if err != nil || !strings.HasPrefix(summary(p.Findings), want) {
			t.Errorf("%s: %s, %v", v, summary(p.Findings), err)
		}
		if dot := strings.Contains(summary(p.Findings), "dotfiles"); dot != (v == pluginbuild.Classic) {
			t.Errorf("%s: %s", v, summary(p.Findings))
		}
	}
}

func TestValidateName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"plugin.so": "", "my_v2.so": "", "a.b.so": "", "plugin_v1.2.so": "",
		"plugin_v5.2.5_linux_amd64.so": "name it plugin.so", "plugin_5.2.5.so": "name it plugin.so",
		"p_v5.2.5-rc1_linux_arm64.so": "name it p.so",
		"../p.so":                     "plain file name", "p": "plain file name", "": "plain file name",
	} {
		err := lookup(t, "5.2.5").ValidateName(name)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) ||
			!errors.Is(err, pluginbuild.ErrRequest)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Compilers before 4.1.0 add nothing, so that the name may say the release.
	if err := lookup(t, "4.0.8").ValidateName("plugin_v4.0.8_linux_amd64.so"); err != nil {
		t.Error(err)
	}
}

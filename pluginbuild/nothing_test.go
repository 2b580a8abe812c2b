package pluginbuild_test

import (
	"io/fs"
	"testing"

	"example.com/tykupgrade/pluginbuild"
)

// Nothing given is an error, not a crash.
func TestNothingGiven(t *testing.T) {
	t.Parallel()
	src, r, none := pluginFS("module example.org/plugin\n", nil), lookup(t, "5.2.5"),
		pluginbuild.Release{}
	for name, f := range map[string]func() error{
		"CheckModule, no files": func() error {
			_, err := pluginbuild.CheckModule(nil, r,
				pluginbuild.CheckOptions{})
			return err
		},
		"CheckModule, no release": func() error {
			_, err := pluginbuild.CheckModule(src, none,
				pluginbuild.CheckOptions{})
			return err
		},
		"CheckBundle, no files": func() error {
			_, err := pluginbuild.CheckBundle(map[string]fs.FS{
				"a": nil}, r)
			return err
		},
		"NewPlan, no files": func() error {
			_, err := pluginbuild.NewPlan(nil, r,
				pluginbuild.PlanOptions{})
			return err
		},
		"NewPlan, no release": func() error {
			_, err := pluginbuild.NewPlan(src, none,
				pluginbuild.PlanOptions{})
			return err
		},
		"Commands": func() error {
			_,
				err := none.Commands(pluginbuild.CommandOptions{})
			return err
		},
		"Image": func() error { _, err := none.Image("", false); return err },
		"Reference": func() error {
			_, err := pluginbuild.Image{}.Reference(
				none)
			return err
		},
		"Prepare": func() error {
			_, err := pluginbuild.Prepare(t.Context(), t.TempDir(), none, pluginbuild.PrepareOptions{})
			return err
		},
		"Lookup": func() error { _, err := pluginbuild.Lookup(nil); return err },
		"Derive": func() error { _, err := pluginbuild.Derive(nil, ""); return err },
		"ResolveCommit": func() error {
			_, err := pluginbuild.ResolveCommit(t.Context(), nil,
				"file:///none", nil)
			return err
		},
		"Error": func() error { return &pluginbuild.Error{} },
	} {
		if err := f(); err == nil || err.Error() == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package tykupgrade_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// From a plugin's module to a healthy gateway on one host, one call per concern. Many hosts, their
// load balancer and the switch of the bundle are the part of debpkg/fleet.
func Example() {
	upgrade := func(ctx context.Context, manifest *bundle.Manifest) error {
		from, to := semver.MustParse("4.0.8"), semver.MustParse("5.2.5")
		release, err := pluginbuild.Lookup(to)
		if err != nil {
			return err
		}
		_, err = pluginbuild.Prepare(ctx, "plugin", release, pluginbuild.PrepareOptions{})
		if err != nil {
			return err
		}
		docker, err := compiler.Connect(compiler.ConnectOptions{})
		if err != nil {
			return err
		}
		defer docker.Close()
		builder := compiler.New(docker, compiler.Options{})
		built, err := builder.Build(ctx, compiler.Request{Release: release, Dir: "plugin"})
		if err != nil {
			return err
		}

		plugin, err := preflight.Inspect(built.Path)
		if err != nil {
			return err
		}
		gateway, err := preflight.Inspect("gateway-5.2.5/tyk")
		if err != nil {
			return err
		}
		if r := preflight.Compare(plugin, gateway); r.Verdict != preflight.Loads {
			return fmt.Errorf("the gateway would refuse the plugin: %v", r.Findings)
		}

		both := bundle.Plugin{Current: "plugin.so", Target: filepath.Base(built.Path)}
		_, err = bundle.WriteUpgrade(ctx, "plugin.zip", os.DirFS("plugin"), manifest,
			bundle.Upgrade{From: from, To: to, Plugins: []bundle.Plugin{both}}, bundle.Options{})
		if err != nil {
			return err
		}

		gw1 := debpkg.Sudo(debpkg.SSH("ops@gw1", debpkg.SSHOptions{}))
		files := &hostfiles.Source{Component: "config/gw1", Runner: gw1}
		_, err = backup.Take(ctx, "/var/backups/tyk", backup.Options{Label: "before 5.2.5"}, files)
		if err != nil {
			return err
		}

		version, err := debpkg.ParseVersion("5.2.5")
		if err != nil {
			return err
		}
		host := debpkg.New(gw1, debpkg.Options{})
		plan, err := host.Plan(ctx, debpkg.Request{Package: "tyk-gateway", Version: version})
		if err != nil {
			return err
		}
		fmt.Print(plan) // for a person to approve; json.Marshal for a machine
		change, err := host.Apply(ctx, plan)
		if err != nil {
			return err
		}
		_, err = health.Wait(ctx, health.Policy{}, health.Gateway("http://gw1:8080", to))
		if err != nil {
			return errors.Join(err, host.Revert(ctx, change, debpkg.RevertOptions{Files: true}))
		}
		return nil
	}
	_ = upgrade // it needs a host
}

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"

	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/fleet/installation"
	"example.com/tykupgrade/examples/internal/cli"
)

// initOptions are the flags of init.
type initOptions struct {
	hosts, haproxy                   cli.List
	out, apis, gatewayURL, secretEnv string
	release, dashboard, pump         string
	ssh                              fleet.SSH
	force                            bool
}

func (o *initOptions) flags(f *flag.FlagSet) {
	f.Var(&o.hosts, "host", "an SSH `destination`, [user@]host, or local for this machine; repeat it")
	f.Var(&o.haproxy, "haproxy", "stats `socket` of an HAProxy: a path or host:port; repeat it")
	f.StringVar(&o.apis, "apis", "", "`directory` of API definitions: a copy of app_path")
	f.StringVar(&o.gatewayURL, "gateway-url", "", "`URL` of a gateway without a dashboard, to ask "+
		"for its APIs, with -secret-env")
	f.StringVar(&o.secretEnv, "secret-env", "", "`variable` that holds the secret of the "+
		"gateway's tyk.conf")
	f.StringVar(&o.release, "release", "", "the gateways' new `version`, such as 5.2.5")
	f.StringVar(&o.dashboard, "dashboard-release", "", "the dashboards' new `version`")
	f.StringVar(&o.pump, "pump-release", "", "the pumps' new `version`")
	f.StringVar(&o.ssh.Config, "ssh-config", "", "ssh configuration `file`")
	f.StringVar(&o.ssh.Identity, "identity", "", "private key `file` for SSH")
	f.StringVar(&o.ssh.KnownHosts, "known-hosts", "", "`file` with the hosts' keys")
	f.StringVar(&o.ssh.Jump, "jump", "", "jump `hosts`, as ssh -J takes them")
	f.BoolVar(&o.ssh.Sudo, "sudo", false, "become root with sudo -n")
	f.StringVar(&o.out, "o", "", "write to this new `file` (default: stdout)")
	f.BoolVar(&o.force, "force", false, "replace the file of -o")
}

// run writes what it finds.
func (o *initOptions) run(ctx context.Context, c *cli.Call) error {
	d := installation.DiscoverOptions{Hosts: o.hosts, SSH: o.ssh, HAProxy: o.haproxy}
	switch {
	case len(o.hosts) == 0:
		return cli.Wrong("-host is missing")
	case o.apis != "" && o.gatewayURL != "":
		return cli.Wrong("give -apis or -gateway-url, not both")
	case (o.gatewayURL == "") != (o.secretEnv == ""):
		return cli.Wrong("-gateway-url and -secret-env go together")
	case o.gatewayURL != "" && c.Env(o.secretEnv) == "":
		return cli.Wrong("the variable %s of -secret-env is not set", o.secretEnv)
	case o.force && o.out == "":
		return cli.Wrong("-force needs -o")
	case o.apis != "":
		d.APIs = apidef.Directory{Path: o.apis}
	case o.gatewayURL != "":
		d.APIs = apidef.Gateway{URL: o.gatewayURL, Secret: c.Env(o.secretEnv)}
	}
	if _, err := os.Lstat(o.out); o.out != "" && !o.force && !errors.Is(err, fs.ErrNotExist) {
		return cli.Advice(cli.Refuse(fmt.Errorf("write %s: the file exists", o.out)),
			"-force replaces it")
	}
	found, err := installation.Discover(ctx, d)
	if err != nil {
		return cli.Refuse(err)
	}
	var text bytes.Buffer
	versions := map[string]string{fleet.Gateway: o.release, fleet.Dashboard: o.dashboard,
		fleet.Pump: o.pump}
	if err := found.WriteFile(&text, versions); err != nil {
		return err
	}
	for _, problem := range found.Problems {
		c.Err.Printf("%s %s\n", c.Err.Paint(cli.Warn, "note:"), problem)
	}
	if o.out == "" {
		_, err = c.Out.Write(text.Bytes())
		return err
	}
	if err := cli.WriteFile(o.out, text.Bytes()); err != nil {
		return err
	}
	c.Out.Printf("%s: %s; edit what is marked TODO, then upgrade plan -file %[1]s\n", o.out,
		cli.Count(len(found.Hosts), "component"))
	return nil
}

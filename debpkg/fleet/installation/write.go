package installation

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/tykupgrade/debpkg/fleet"
)

// quote returns a text as a YAML scalar for flow and block style.
func quote(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("._/@-", r))
	})
	if plain && strings.ContainsAny(s[:1], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/") &&
		!slices.Contains([]string{"true", "false", "yes", "no", "null", "on", "off", "y", "n"},
			strings.ToLower(s)) {
		return s
	}
	return strconv.Quote(strings.ReplaceAll(s, "${", "$${"))
}

// WriteFile writes a commented file that upgrades what was found to the given versions by
// component. A component without a version keeps its own, in a line to edit. [Load] accepts the
// file. Comments that begin with TODO mark what is missing.
func (f *Found) WriteFile(w io.Writer, versions map[string]string) error {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	now := f.versions()
	line("# Written by upgrade init. Edit what is marked TODO, then: upgrade plan -file FILE")
	for _, p := range f.Problems {
		line("# TODO: %s", strings.ReplaceAll(p, "\n", " "))
	}
	line("\nversions:")
	for _, component := range slices.Sorted(maps.Keys(now)) {
		if to := versions[component]; to != "" {
			line("  %s: %s # installed: %s", component, strconv.Quote(to), now[component])
		} else {
			line("  %s: %s # TODO: the version to upgrade to", component, strconv.Quote(now[component]))
		}
	}
	if _, mdcb := now[fleet.MDCB]; mdcb {
		line("\norder: mdcb # TODO: call the hosts of data planes data-plane-gateway and data-plane-pump")
	}
	f.hosts(line)
	f.front(line)
	line("\nmax_unavailable: 1          # hosts of a component out at a time")
	line("canary: {count: 1, soak: 1m} # the first host of a component is watched alone")
	f.plugins(line, now[fleet.Gateway])
	line("\nbackup:\n  dir: backups")
	line("  # redis: {uri_env: REDIS_URI}       # TODO: what tyk.conf has; or uri_file, uri_command")
	line("  # mongo: {uri_env: MONGO_URI}       # TODO: what tyk_analytics.conf has: mongo " +
		"or postgres")
	line("  # postgres: {uri_env: POSTGRES_URI}")
	line("\n# gates:                             # TODO: requests that must be answered throughout")
	line("# - {name: front, url: \"https://api.example.com/hello\", status: 200}")
	_, err := io.WriteString(w, b.String())
	return err
}

func (f *Found) hosts(line func(string, ...any)) {
	line("\nhosts: # one entry for each component on each machine")
	for _, h := range f.Hosts {
		text := "name: " + quote(h.Name) + ", address: " + quote(h.Address) + ", component: " +
			h.Component
		if h.Package != "" {
			text += ", package: " + quote(h.Package)
		}
		if h.Server != "" {
			text += ", server: " + quote(h.Server)
		}
		note := ""
		if h.Component == fleet.MDCB {
			text += ", health: \"http://" + plainName(h.Address) + ":8181/health\""
			note = " # TODO: the URL of its health endpoint"
		}
		line("- {%s}%s", text, note)
	}
	var ssh []string
	for key, value := range map[string]string{"config": f.SSH.Config, "identity": f.SSH.Identity,
		"known_hosts": f.SSH.KnownHosts, "jump": f.SSH.Jump} {
		if value != "" {
			ssh = append(ssh, key+": "+quote(value))
		}
	}
	slices.Sort(ssh)
	if f.SSH.Sudo {
		ssh = append(ssh, "sudo: true")
	}
	if ssh != nil {
		line("ssh: {%s}", strings.Join(ssh, ", "))
	} else {
		line("# ssh: {sudo: true, known_hosts: known_hosts} # unless ssh reaches root as it is")
	}
}

func (f *Found) front(line func(string, ...any)) {
	if len(f.HAProxy) == 0 {
		line("\n# balancer: none  # TODO: haproxy, or balancer: none if requests may fail while a " +
			"host restarts")
		return
	}
	line("\nhaproxy: # every process in front of the hosts")
	for _, p := range f.HAProxy {
		network := ""
		if p.Network != "" {
			network = "network: " + p.Network + ", "
		}
		var backends []string
		for _, component := range slices.Sorted(maps.Keys(p.Backends)) {
			var names []string
			for _, name := range p.Backends[component] {
				names = append(names, quote(name))
			}
			backends = append(backends, component+": ["+strings.Join(names, ", ")+"]")
		}
		line("- {%saddress: %s, backends: {%s}}", network, quote(p.Address), strings.Join(backends, ", "))
	}
}

// plugins writes the section as a comment, because builds cannot be found on the hosts.
func (f *Found) plugins(line func(string, ...any), from string) {
	if len(f.Bundles) == 0 && len(f.OnDisk) == 0 {
		line("\n# No bundle was found in the API definitions. With Go plugins add plugin: and apis:.")
		return
	}
	line("\n# TODO: remove the first character of each of these lines, and name the builds.")
	line("#plugin:")
	line("#  from: %s # the gateways' version now", quote(from))
	line("#  gateway: tyk-gateway.deb # of the new version, to check plugins against")
	line("#  bundle: {dir: bundles, url: \"https://bundles.example.com/\", publish: [cp, " +
		"\"{file}\", \"/srv/bundles/{name}\"]}")
	line("#switch: same_name")
	line("#bundles:")
	for _, name := range slices.Sorted(maps.Keys(f.Bundles)) {
		line("#- name: %s # of API %s", quote(name), strings.Join(f.Bundles[name], ", "))
		line("#  manifest: %s", quote(strings.TrimSuffix(name, ".zip")+"/manifest.json"))
		line("#  plugins: [{current: %s, source: %s, prepare: true}]", quote(strings.TrimSuffix(name,
			".zip")+"/plugin.so"), quote(strings.TrimSuffix(name, ".zip")))
	}
	for _, path := range slices.Sorted(maps.Keys(f.OnDisk)) {
		line("# TODO: %s loads %s from the gateway's disk, and no bundle brings a new build",
			strings.Join(f.OnDisk[path], ", "), path)
	}
}

package debs

import (
	"fmt"
	"strings"
)

// TykOptions changes a fake of a Tyk package. The zero value is a
// service that starts, and stays up doing nothing.
type TykOptions struct {
	Binary string // executable to install as the service's; empty: a script that sleeps
	Args   string // arguments of the service in its unit
	// content of the conffile; empty: a small JSON text that is the same in every version
	Config   string
	Samples  map[string]string // further files below the component's directory, overwritten on upgrade
	Crash    bool              // the service exits at once
	Fields   []string          // further control fields
	Postinst string            // shell text before the usual postinst, such as "exit 7"
}

// Tyk returns a fake of tyk-gateway, tyk-dashboard, tyk-pump or one of
// their editions. Its unit is NAME.service, started with
// /etc/default/NAME as an optional environment file.
func Tyk(name, version string, o TykOptions) Package {
	base := strings.TrimSuffix(strings.TrimSuffix(name, "-ee"), "-fips")
	dir := "/opt/" + base
	binary, config := dir+"/"+base, ""
	switch base {
	case "tyk-gateway":
		binary, config = dir+"/tyk", dir+"/tyk.conf"
	case "tyk-dashboard":
		binary, config = dir+"/tyk-analytics", dir+"/tyk_analytics.conf"
	case "tyk-pump":
		config = dir + "/pump.conf"
	}
	program := File{Source: o.Binary, Mode: 0o755}
	switch {
	case o.Crash:
		program = File{Content: "#!/bin/sh\n# " + version + "\necho " + base + " " + version +
			": cannot start >&2\nexit 1\n", Mode: 0o755}
	case o.Binary == "":
		program.Content = "#!/bin/sh\n# " + version + "\necho " + base + " " + version +
			" started\nexec sleep 2147483647\n"
	}
	if o.Config == "" {
		o.Config = "{\"listen_port\": 8080}\n"
	}
	unit := fmt.Sprintf(`[Unit]
Description=%[1]s stub
After=network.target

[Service]
Type=simple
EnvironmentFile=-/etc/default/%[1]s
WorkingDirectory=%[2]s
ExecStart=%[3]s
Restart=always

[Install]
WantedBy=multi-user.target
`, base, dir, strings.TrimSpace(binary+" "+o.Args))
	p := Package{
		Name: name, Version: version, Fields: o.Fields,
		Files: map[string]File{
			binary:                          program,
			config:                          {Content: o.Config, Mode: 0o660},
			dir + "/policies/policies.json": {Content: "{\"shipped\": \"" + version + "\"}\n"},
			dir + "/templates/error.json":   {Content: "{\"error\": \"" + version + "\"}\n"},
			"/lib/systemd/system/" + base + ".service": {Content: unit},
		},
		Scripts: map[string]string{
			"postinst": o.Postinst + strings.ReplaceAll(postinst, "UNIT", base+".service"),
			"prerm":    strings.ReplaceAll(prerm, "UNIT", base+".service"),
		},
	}
	if o.Binary != "" {
		p.Files[binary+".version"] = File{Content: version + "\n"} // where tykd looks
	}
	// The dashboard is closed source: that its configuration is a conffile like
	// the gateway's and the pump's is assumed.
	p.Conffiles = []string{config}
	for path, content := range o.Samples {
		p.Files[dir+"/"+path] = File{Content: content}
	}
	return p
}

// As in the gateway's packages v4.0.8 to v5.14.0: on upgrade daemon-reload and
// restart with errors swallowed, on a clean install unmask, enable and start.
// DPKG_ROOT is set when dpkg works in a private root.
const postinst = `
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ] && [ "$1" = configure ]; then
	if [ -n "$2" ]; then
		systemctl daemon-reload ||:
		systemctl restart UNIT ||:
	else
		systemctl unmask UNIT ||:
		systemctl daemon-reload ||:
		systemctl enable UNIT ||:
		systemctl restart UNIT ||:
	fi
fi
exit 0
`

const prerm = `
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ] && [ "$1" = remove ]; then
	systemctl stop UNIT ||:
	systemctl disable UNIT ||:
fi
exit 0
`

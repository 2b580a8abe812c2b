package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/tykversion"
)

// Finding is a fact about versions or configuration that stops a rolling upgrade, or that its
// operator must know.
type Finding struct {
	// a token: licences, mdcb_order, log_format, support, rollback or ready_drain
	Kind   string   `json:"kind"`
	Refuse bool     `json:"refuse"`
	Hosts  []string `json:"hosts,omitempty"`
	Text   string   `json:"text"`
	Source string   `json:"source"` // the document or fact behind the rule
}

func (f Finding) String() string {
	if len(f.Hosts) == 0 {
		return f.Text + " (" + f.Source + ")"
	}
	return strings.Join(f.Hosts, ", ") + ": " + f.Text + " (" + f.Source + ")"
}

// The sources of the rules.
const (
	sourceGateway = "https://tyk.io/docs/developer-support/release-notes/gateway, July 2026"
	sourceMDCB    = "https://tyk.io/docs/developer-support/release-notes/mdcb, 2.11.0"
	sourceUpgrade = "https://tyk.io/docs/developer-support/upgrading"
	sourceRemoved = "Tyk's package repositories, March 2025"
)

// supported lists the minor versions of gateway and dashboard that get fixes: the newest, and the
// newest with long-term support.
var supported = []string{"5.8", "5.14"}

// Findings checks the versions of the inventory, and the configuration that it reads from the
// hosts. Findings contain no secrets. An error means that a host could not be read.
func (inv *Inventory) Findings(ctx context.Context, hosts []Host) ([]Finding, error) {
	all := inv.versionFindings()
	now := make([]debpkg.Version, len(hosts))
	conf := make([]map[string]any, len(hosts))
	err := Each(hosts, func(i int, h Host) (err error) {
		if now[i], err = inv.Installed(ctx, h); err != nil || now[i].IsZero() {
			return err
		}
		file := map[string]string{Dashboard: "/opt/tyk-dashboard/tyk_analytics.conf",
			Gateway: "/opt/tyk-gateway/tyk.conf", DataPlaneGateway: "/opt/tyk-gateway/tyk.conf"}[h.Component]
		if file == "" {
			return nil
		}
		data, err := readFile(ctx, inv.Runner(h), file)
		if err != nil {
			return err
		}
		if json.Unmarshal(data, &conf[i]) != nil {
			return &Error{Op: "read", Object: file, Err: fmt.Errorf("it is not JSON"),
				Next: "check the file"}
		}
		return nil
	})
	licences := map[[32]byte][]string{}
	for i, h := range hosts {
		if now[i].IsZero() {
			continue
		}
		if key, _ := conf[i]["license_key"].(string); h.Component == Dashboard && key != "" {
			sum := sha256.Sum256([]byte(key))
			licences[sum] = append(licences[sum], h.Name)
		}
		if f, ok := inv.logFormat(h, now[i], conf[i]); ok {
			all = add(all, f)
		}
		if f, ok := inv.undrained(h, now[i], conf[i]); ok {
			all = add(all, f)
		}
		if v, err := tykversion.Parse(now[i].String()); err == nil && older(v, "3.0.0") &&
			(IsGateway(h.Component) || h.Component == Dashboard) {
			all = add(all, Finding{Kind: "rollback", Hosts: []string{h.Name}, Source: sourceRemoved,
				Text: "packages before 3.0 were removed from the repositories, so a revert needs the copy " +
					"that is saved on the host"})
		}
	}
	if len(licences) > 1 {
		var names []string
		for _, n := range licences {
			names = append(names, n...)
		}
		slices.Sort(names)
		all = append(all, Finding{Kind: "licences", Refuse: true, Hosts: names, Source: sourceUpgrade,
			Text: "the dashboards have different licences; all dashboards on one Redis must have the same " +
				"one at a time"})
	}
	return all, err
}

// add joins findings that differ only by host.
func add(all []Finding, f Finding) []Finding {
	for i := range all {
		if all[i].Kind == f.Kind && all[i].Text == f.Text {
			all[i].Hosts = append(all[i].Hosts, f.Hosts...)
			return all
		}
	}
	return append(all, f)
}

// versionFindings returns the findings that need only the inventory.
func (inv *Inventory) versionFindings() []Finding {
	var all []Finding
	version := func(component string) *semver.Version {
		v, err := tykversion.Parse(inv.Versions[component])
		if err != nil {
			return nil
		}
		return v
	}
	for _, component := range []string{Dashboard, Gateway, DataPlaneGateway} {
		if v := version(component); v != nil && !slices.Contains(supported, fmt.Sprintf("%d.%d",
			v.Major(), v.Minor())) && older(v, "5.15.0") {
			all = append(all, Finding{Kind: "support", Source: sourceGateway,
				Text: fmt.Sprintf("%s %s is out of support: %s and later patches are supported", component, v,
					oneOf(supported))})
		}
	}
	gateway, mdcb, pump := version(DataPlaneGateway), version(MDCB), version(DataPlanePump)
	if gateway != nil && !older(gateway, "5.13.0") && (mdcb != nil && older(mdcb, "2.11.0") ||
		pump != nil && older(pump, "1.15.0")) {
		all = append(all, Finding{Kind: "mdcb_order", Refuse: true, Source: sourceMDCB,
			Text: fmt.Sprintf("data planes with gateway %s route MCP analytics through MDCB, which needs "+
				"MDCB 2.11.0 and pump 1.15.0 first", gateway)})
	}
	return all
}

// logFormat reports a gateway whose log changes its format: 5.13.1, and from 5.14.0 on.
func (inv *Inventory) logFormat(h Host, now debpkg.Version, conf map[string]any) (Finding, bool) {
	from, err := tykversion.Parse(now.String())
	to, terr := tykversion.Parse(inv.Versions[h.Component])
	if err != nil || terr != nil || !IsGateway(h.Component) || conf["log_format"] != nil ||
		!older(from, "5.13.1") || older(to, "5.13.1") {
		return Finding{}, false
	}
	return Finding{Kind: "log_format", Hosts: []string{h.Name}, Source: sourceGateway,
		Text: "the gateway's log changes its format (RFC 3339 times, message= instead of msg=); " +
			"log_format: legacy in tyk.conf keeps the old one for tools that read it"}, true
}

// undrained reports a host that "balancer: ready" cannot take out of traffic. Without commands, the
// service itself must fail the balancer's check while it still serves.
func (inv *Inventory) undrained(h Host, now debpkg.Version, conf map[string]any) (Finding, bool) {
	if inv.Balancer.Kind != BalancerReady || len(inv.Balancer.Drain) > 0 || !balanced(h.Component) {
		return Finding{}, false
	}
	v, err := tykversion.Parse(now.String())
	delay, _ := conf["graceful_shutdown_delay_seconds"].(float64)
	if err == nil && IsGateway(h.Component) && !older(v, "5.14.0") && delay > 0 {
		return Finding{}, false
	}
	return Finding{Kind: "ready_drain", Refuse: true, Hosts: []string{h.Name}, Source: sourceGateway,
		Text: "the service does not leave the load balancer before it stops: set the balancer's commands " +
			"drain and ready, or set graceful_shutdown_delay_seconds of a gateway from 5.14.0 on"}, true
}

func older(v *semver.Version, than string) bool { return v.LessThan(semver.MustParse(than)) }

// readFile reads a file of a host.
func readFile(ctx context.Context, run debpkg.Runner, path string) ([]byte, error) {
	var out, stderr bytes.Buffer
	if err := run(ctx, []string{"cat", "--", path}, nil, &out, &stderr); err != nil {
		return nil, &Error{Op: "read", Object: path, Err: said(err, stderr.String()), Retry: true}
	}
	return out.Bytes(), nil
}

// said adds the output of a command to its error.
func said(err error, stderr string) error {
	text := strings.TrimSpace(stderr)
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text[:min(len(text), 500)])
}

// Package site has gateway hosts in memory behind a real HAProxy, for tests of package fleet and
// of what is built on it. A site boots in milliseconds, and a run over it takes seconds.
package site

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/internal/lab/tyk"
)

// The versions that the hosts' sources offer. They begin with Old. The service of Broken does
// not stay up.
const (
	Old    = "4.0.8"
	New    = "5.2.5"
	Next   = "5.2.6"
	Broken = "5.3.0"
)

// Site is gateways h1, h2 and so on.
type Site struct {
	Dir      string // for sockets and files; its path is short
	Gateways []*Gateway
	Bundles  string // URL of the bundle server of Dir/served, after ServeBundles
	Colour   string // the map file of HAProxy, and the address of its frontend, after HAProxy
	Split    string
}

// Start starts gateways until the test ends.
func Start(tb testing.TB, gateways int) *Site {
	tb.Helper()
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Site{Dir: dir}
	for i := range gateways {
		s.Gateways = append(s.Gateways, newGateway(tb, dir, fmt.Sprint("h", i+1)))
	}
	return s
}

// Secret is that of the gateways' own API, after ServeBundles.
const Secret = "352d20ee67be67f6340b4c0605b044b7"

// ServeBundles serves the directory Dir/served, which must be there, and gives every gateway one
// API with a bundle from it.
func (s *Site) ServeBundles(tb testing.TB, bundle string) {
	tb.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(s.Dir, "served"))))
	tb.Cleanup(server.Close)
	s.Bundles = server.URL
	for _, g := range s.Gateways {
		home := filepath.Join(s.Dir, g.Name)
		g.conf = tyk.Conf{AppPath: filepath.Join(home, "apps"),
			MiddlewarePath: filepath.Join(home, "middleware"), Downloader: true,
			BundleBaseURL: s.Bundles, Secret: Secret}
		api := fmt.Sprintf(`{"api_id": "everything", "active": true, `+
			`"custom_middleware_bundle": %q, "proxy": {"listen_path": "/"}}`, bundle)
		if err := errors.Join(os.MkdirAll(g.conf.AppPath, 0o755), os.WriteFile(filepath.Join(
			g.conf.AppPath, "everything.json"), []byte(api), 0o644)); err != nil {
			tb.Fatal(err)
		}
		g.serveAPIs()
	}
}

// Addrs are the gateways' addresses.
func (s *Site) Addrs() []string {
	var all []string
	for _, g := range s.Gateways {
		all = append(all, g.Addr)
	}
	return all
}

// File is an inventory for a version, with lines added.
func (s *Site) File(version, more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "versions: {gateway: %s}\nhealth: {success_threshold: 1, deadline: 5m, settle: "+
		"1ms}\nup: {deadline: 5m}\n%s\nhosts:\n", version, more)
	for i, g := range s.Gateways {
		colour := []string{"blue", "green"}[i%2]
		fmt.Fprintf(&b, "- {name: %s, component: gateway, server: %[1]s, colour: %s, "+
			"health: \"http://%s\"}\n", g.Name, colour, g.Addr)
	}
	return b.String()
}

// Inventory is [Site.File] with the hosts connected.
func (s *Site) Inventory(tb testing.TB, version, more string) *fleet.Inventory {
	tb.Helper()
	inv, err := fleet.Parse([]byte(s.File(version, more)))
	if err != nil {
		tb.Fatal(err)
	}
	inv.Connect = s.Connect
	return inv
}

// Connect reaches a host of an inventory.
func (s *Site) Connect(h fleet.Host) debpkg.Runner { return s.Gateway(h.Name).Run }

// Gateway finds one by its name.
func (s *Site) Gateway(name string) *Gateway {
	for _, g := range s.Gateways {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// Versions are those that the hosts have: "4.0.8 5.2.5".
func (s *Site) Versions() string {
	var all []string
	for _, g := range s.Gateways {
		all = append(all, g.Version())
	}
	return strings.Join(all, " ")
}

// Kept is the administrative state of every server.
func (s *Site) Kept(tb testing.TB) string {
	tb.Helper()
	var all []json.RawMessage
	for _, g := range s.Gateways {
		k, err := s.Balancer().Keep(tb.Context(), g.Name)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, k)
	}
	data, err := json.Marshal(all)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

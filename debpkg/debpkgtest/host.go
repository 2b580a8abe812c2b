// Package debpkgtest has a Debian host in memory, for unit tests of programs that use package
// debpkg. A [Host] knows packages, what its sources offer, configuration files and units. Its
// [Host.Run] is a Runner, so that the real debpkg.Host plans, applies and reverts on it. Tests can
// make it fail.
//
//	fake := debpkgtest.New("gw1")
//	fake.Offer(debpkgtest.Tyk("tyk-gateway", "5.2.5"))
//	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
//	host := debpkg.New(fake.Run, debpkg.Options{Settle: time.Millisecond})
//
// # Limits
//
// The host has no dependencies between packages, no file contents except those of conffiles, and no
// Upload. It fits only the debpkg of the same version of this module, because debpkg's commands may
// change with any release.
package debpkgtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"example.com/tykupgrade/debpkg"
)

// Package is one version of a package.
type Package struct {
	Name, Version string
	Conffiles     map[string]string // content by path
	Unit          string            // the service that the package ships; empty: none
	Crash         bool              // the service does not stay up
	PostinstExit  int               // exit code of its postinst script
}

// Tyk returns a version of a Tyk component with its conffile and its unit.
func Tyk(name, version string) Package {
	p := Package{Name: name, Version: version}
	base := strings.TrimSuffix(strings.TrimSuffix(name, "-ee"), "-fips")
	for _, c := range debpkg.Components() {
		if c.Package == base {
			p.Unit, p.Conffiles = c.Unit, map[string]string{c.Config: "{\"version\": \"" + version + "\"}\n"}
		}
	}
	return p
}

// Host is a Debian 12 host in memory. Its methods may be called concurrently.
type Host struct {
	mu        sync.Mutex
	name      string
	offers    []Package
	installed map[string]*installed
	files     map[string]string // conffiles on the disk
	units     map[string]*unit
	runs      map[string]*run
	debs      map[string]Package // .deb files by path
	archives  map[string]map[string]string
	done      []string
	history   []string // stanzas of apt's log

	lock       string // the command that holds dpkg's lock
	update     string // what apt-get update complains of
	disconnect int    // commands until the connection is lost; 0: never
	lost       int    // commands that fail then
	prepared   int
}

type installed struct {
	Package
	want, status string
	auto         bool
}

type unit struct {
	active, masked bool
	started        int
}

type run struct {
	change, out, errs, status []byte
	code                      int
}

// New returns a host without packages.
func New(name string) *Host {
	return &Host{name: name, installed: map[string]*installed{}, files: map[string]string{},
		units: map[string]*unit{},
		runs:  map[string]*run{}, debs: map[string]Package{}, archives: map[string]map[string]string{}}
}

// Offer adds versions to the host's source.
func (h *Host) Offer(packages ...Package) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offers = append(h.offers, packages...)
}

// Withdraw removes a version from the source.
func (h *Host) Withdraw(name, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offers = slices.DeleteFunc(h.offers, func(p Package) bool {
		return p.Name == name &&
			p.Version == version
	})
}

// Install installs packages on the host and starts their units.
func (h *Host) Install(packages ...Package) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range packages {
		h.unpack(p)
	}
}

// Hold puts a package on hold.
func (h *Host) Hold(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.installed[name]; p != nil {
		p.want = "hold"
	}
}

// Write writes a file on the host.
func (h *Host) Write(path, content string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[path] = content
}

// Read returns the content of a conffile or of a file that was written, or "".
func (h *Host) Read(path string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files[path]
}

// Locked makes another package manager, with this command name, hold dpkg's lock. An empty command
// releases the lock.
func (h *Host) Locked(command string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lock = command
}

// FailUpdate makes apt-get update print a text on standard error and fail. With an empty text it
// succeeds again.
func (h *Host) FailUpdate(stderr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.update = stderr
}

// Disconnect breaks the connection after n more commands. Then the given number of commands fail
// with debpkg.ErrConnection. A run of apt that has begun continues.
func (h *Host) Disconnect(n, times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disconnect, h.lost = n+1, times
}

// State returns a package's version and dpkg's words for its state, such as "5.2.5 hold installed".
// For an absent package it returns "".
func (h *Host) State(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.installed[name]
	if p == nil {
		return ""
	}
	return p.Version + " " + p.want + " " + p.status
}

// Active reports whether a unit runs.
func (h *Host) Active(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.units[name]
	return u != nil && u.active
}

// Done returns the changes of the host in order, such as "update", "install tyk-gateway=5.2.5",
// "remove tyk-pump" and "restart tyk-gateway.service".
func (h *Host) Done() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.done)
}

func (h *Host) note(format string, a ...any) { h.done = append(h.done, fmt.Sprintf(format, a...)) }

// Break leaves a package as an interrupted run does: unpacked, but not configured.
func (h *Host) Break(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.installed[name]; p != nil {
		p.status = "unpacked"
	}
}

// logHistory adds to apt's history.
func (h *Host) logHistory(key, text string) {
	h.history = append(h.history, fmt.Sprintf("Start-Date: 2026-01-01  00:00:%02d\nCommandline: "+
		"apt-get install\n%s: %s\nEnd-Date: 2026-01-01  00:00:%02d\n", len(h.history)%60, key, text,
		len(h.history)%60))
}

// unpack replaces a package as dpkg does with --force-confdef and
// --force-confold, and restarts its unit.
func (h *Host) unpack(p Package) {
	old := h.installed[p.Name]
	now := &installed{Package: p, want: "install", status: "installed"}
	if old != nil {
		now.want, now.auto = old.want, old.auto
	}
	for path, content := range p.Conffiles {
		disk, there := h.files[path]
		shipped := ""
		if old != nil {
			shipped = old.Conffiles[path]
		}
		switch {
		case !there && shipped != "": // deleted on purpose
		case !there, disk == shipped:
			h.files[path] = content
		case content != shipped && disk != content:
			h.files[path+".dpkg-dist"] = content
		}
	}
	switch {
	case old == nil || old.status == "config-files":
		now.want = "install"
		h.logHistory("Install", fmt.Sprintf("%s:amd64 (%s)", p.Name, p.Version))
	case older(p.Version, old.Version):
		h.logHistory("Downgrade", fmt.Sprintf("%s:amd64 (%s, %s)", p.Name, old.Version, p.Version))
	default:
		h.logHistory("Upgrade", fmt.Sprintf("%s:amd64 (%s, %s)", p.Name, old.Version, p.Version))
	}
	h.installed[p.Name] = now
	if p.PostinstExit != 0 {
		now.status = "half-configured"
		return
	}
	if p.Unit != "" {
		u := h.units[p.Unit]
		if u == nil {
			u = &unit{}
			h.units[p.Unit] = u
		}
		if !u.masked {
			u.active = !p.Crash
			u.started++
		}
	}
}

// older compares as dpkg does.
func older(a, b string) bool {
	v, err := debpkg.ParseVersion(a)
	w, werr := debpkg.ParseVersion(b)
	return err == nil && werr == nil && v.Compare(w) < 0
}

func (h *Host) remove(name string) {
	if p := h.installed[name]; p != nil {
		p.status, p.want = "config-files", "deinstall"
		if u := h.units[p.Unit]; u != nil {
			u.active = false
		}
	}
}

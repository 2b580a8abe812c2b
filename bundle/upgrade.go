package bundle

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Build is a plugin that was compiled for one gateway version.
type Build struct {
	Gateway *semver.Version
	File    string // its path, as the source of the files has it; the base name counts
}

// Upgrade describes what one bundle has to serve.
type Upgrade struct {
	Current, Target Build
	GOOS, GOARCH    string // the gateways'; empty: linux, amd64
	// Response: the plugin is used by response hooks, which gateways before
	// 4.3.2 load by their exact name only.
	Response bool
}

// UpgradePlan is a bundle from which each of two gateway versions loads its own
// build of a plugin.
type UpgradePlan struct {
	FileList []string          `json:"file_list"`
	Hook     string            `json:"hook"`    // the path for every hook of this plugin
	Sources  map[string]string `json:"sources"` // for each of FileList, the file to take it from
	// Current and Target prove it: what each version tries and finds.
	Current Resolution `json:"current"`
	Target  Resolution `json:"target"`

	upgrade Upgrade
}

// ForUpgrade arranges the two builds of a plugin. It keeps their names where it
// can; otherwise the plan has copies under the names that each version tries.
// For 4.0.8 and 5.2.5 that is plugin.so and plugin_v5.2.5_linux_amd64.so with
// the hook path plugin.so.
//
// Where no arrangement works the error matches [ErrNoUpgrade] and says why.
// Then publish two bundles and switch the API with the gateways.
func ForUpgrade(u Upgrade) (*UpgradePlan, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	var best *UpgradePlan
	for _, hook := range u.hookPaths() {
		for _, c := range u.names(u.Current, hook) {
			for _, t := range u.names(u.Target, hook) {
				if p := u.try(hook, c, t); p != nil && (best == nil || p.cost() < best.cost()) {
					best = p
				}
			}
		}
	}
	if best == nil {
		return nil, u.impossible()
	}
	return best, nil
}

func (u Upgrade) check() error {
	fail := func(object, hint, format string, a ...any) error {
		return &Error{Op: "plan upgrade bundle", Object: object, Err: fmt.Errorf(format, a...), hint: hint}
	}
	for i, b := range []Build{u.Current, u.Target} {
		what := [...]string{"current", "target"}[i]
		if b.Gateway == nil {
			return fail(what, "give the version that the gateway's /hello reports", "no gateway version given")
		}
		name := path.Base(b.File)
		if !strings.HasSuffix(name, ".so") || name == ".so" {
			return fail(what, "name the compiled plugin", "%q is not the name of a .so file", b.File)
		}
		// The copy of a file that is for another gateway would have a name that
		// says otherwise, and fail when it is loaded.
		if m := versioned.FindStringSubmatch(name); m != nil && name != prefixed.name(m[1], release(b.Gateway), u.GOOS, u.GOARCH) &&
			name != bare.name(m[1], release(b.Gateway), u.GOOS, u.GOARCH) {
			return fail(what, "compile it for this gateway, or rename it if you are sure",
				"%s is named for gateway %s on %s/%s, another one than %s", b.File, m[2], m[3], m[4], b.Gateway)
		}
	}
	if u.Current.File == u.Target.File {
		return fail(u.Target.File, "compile the plugin for each version", "it is given as the build for both versions")
	}
	if v := release(u.Target.Gateway); v.Equal(release(u.Current.Gateway)) {
		return fail("", "publish a changed plugin for the same gateway version as a bundle of a new name",
			"%w: both are %s and load the same name", ErrNoUpgrade, v)
	}
	return nil
}

// hookPaths lists the paths worth trying, the plainest first.
func (u Upgrade) hookPaths() []string {
	var all []string
	for _, b := range []Build{u.Target, u.Current} {
		name := path.Base(b.File)
		if m := versioned.FindStringSubmatch(name); m != nil {
			name = m[1] + ".so"
		}
		all = append(all, name)
	}
	return append(all, path.Base(u.Current.File))
}

// names lists what a build may be called: what its gateway tries first comes
// first.
func (u Upgrade) names(b Build, hook string) []string {
	return candidates(hook, b.Gateway, u.GOOS, u.GOARCH, u.Response)
}

// try returns the plan with these names if it works, else nil.
func (u Upgrade) try(hook, current, target string) *UpgradePlan {
	if current == target {
		return nil
	}
	p := &UpgradePlan{
		FileList: []string{current, target},
		Hook:     hook,
		Sources:  map[string]string{current: u.Current.File, target: u.Target.File},
		upgrade:  u,
	}
	var err1, err2 error
	p.Current, err1 = resolve(hook, u.Current.Gateway, u.GOOS, u.GOARCH, p.FileList, u.Response)
	p.Target, err2 = resolve(hook, u.Target.Gateway, u.GOOS, u.GOARCH, p.FileList, u.Response)
	if err1 != nil || err2 != nil || p.Current.File != current || p.Target.File != target {
		return nil
	}
	return p
}

// cost ranks plans: a copy is worse than a name that is kept, and a copy under
// the exact name is worse than one that says its version, as gateways of third
// versions would load it.
func (p *UpgradePlan) cost() int {
	cost := 0
	for name, source := range p.Sources {
		if name != path.Base(source) {
			cost += 2
			if name == p.Hook {
				cost++
			}
		}
	}
	return cost
}

// impossible explains why no plan works: the version that knows the exact name
// only needs it for its own build, and the other takes it first.
func (u Upgrade) impossible() error {
	only, other := u.Current.Gateway, u.Target.Gateway
	if hook := u.hookPaths()[0]; len(candidates(hook, only, u.GOOS, u.GOARCH, u.Response)) > 1 {
		only, other = other, only
	}
	what := ""
	if u.Response {
		what = " for response hooks"
	}
	return &Error{
		Op:  "plan upgrade bundle",
		Err: fmt.Errorf("%w: gateway %s loads the exact name of a hook's path only%s, and gateway %s takes that name before any other", ErrNoUpgrade, only, what, other),
		hint: "publish a bundle of its own for each version, under different names, and switch the API when the gateways are switched, " +
			"or upgrade to 4.3.2 or later, which prefers versioned names",
	}
}

// Manifest returns m with the plan in it: file_list has the plan's files where
// it had the current build, the hooks that load it have the plan's path, and
// checksum and signature are empty. It fails where m has no such hook, or where
// its other files or hooks keep the plan from working.
func (p *UpgradePlan) Manifest(m *Manifest) (*Manifest, error) {
	fail := func(object, format string, a ...any) (*Manifest, error) {
		return nil, &Error{Op: "apply upgrade plan", Object: object, Err: fmt.Errorf(format, a...)}
	}
	if m == nil {
		return fail("", "no manifest given")
	}
	u, file := p.upgrade, path.Base(p.upgrade.Current.File)
	at := slices.Index(m.FileList, file)
	if at < 0 {
		return fail("file_list", "the current build %s is not in it", file)
	}
	n := m.clone()
	n.Checksum, n.Signature = "", ""
	n.FileList = slices.Replace(n.FileList, at, at+1, p.FileList...)
	var changed []placed
	for _, h := range n.hooks() {
		if r, err := resolve(h.Path, u.Current.Gateway, u.GOOS, u.GOARCH, m.FileList, h.response); err == nil && r.File == file {
			h.Path = p.Hook
			changed = append(changed, h)
		}
	}
	if len(changed) == 0 {
		return fail("custom_middleware", "gateway %s loads %s for none of its hooks", u.Current.Gateway, file)
	}
	for _, h := range changed {
		hint := "remove the other builds of this plugin from file_list"
		if h.response && !u.Response {
			hint = "plan it for response hooks"
		}
		for _, want := range []Resolution{p.Current, p.Target} {
			v, err := semver.NewVersion(want.Gateway)
			if err != nil {
				return fail(h.at, "%w", err)
			}
			if r, _ := resolve(h.Path, v, u.GOOS, u.GOARCH, n.FileList, h.response); r.File != want.File {
				return nil, &Error{Op: "apply upgrade plan", Object: h.at, Err: fmt.Errorf("gateway %s would load %q instead of %q", want.Gateway, r.File, want.File), hint: hint}
			}
		}
	}
	return n, nil
}

// FS returns src with the plan's names added: what [Write] needs, without
// copying a file.
func (p *UpgradePlan) FS(src fs.FS) fs.FS { return renamed{src, p.Sources} }

type renamed struct {
	fs.FS
	sources map[string]string
}

func (r renamed) Open(name string) (fs.File, error) { return r.FS.Open(r.source(name)) }

// Stat keeps what a file system can tell without opening a file.
func (r renamed) Stat(name string) (fs.FileInfo, error) { return fs.Stat(r.FS, r.source(name)) }

func (r renamed) source(name string) string {
	if source, ok := r.sources[name]; ok {
		return source
	}
	return name
}

package main

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// arranged is the bundle before it is written: everything but bytes.
type arranged struct {
	plan     *bundle.UpgradePlan
	upgrade  bundle.Upgrade
	base     *bundle.Manifest // in use now
	manifest *bundle.Manifest // with both builds
	files    disk
}

// arrange finds the names under which each version loads its own build, and what running
// gateways do at the switch. It refuses a switch that takes traffic down.
func (u *upgrade) arrange(ctx context.Context) (*arranged, error) {
	to, err := u.release()
	if err != nil {
		return nil, err
	}
	from, err := pluginbuild.ParseVersion(u.Plugin.From)
	if err != nil {
		return nil, err
	}
	target, err := u.target(ctx)
	if err != nil {
		return nil, err
	}
	m, err := u.Plugin.manifest(from)
	if err != nil {
		return nil, err
	}
	files := disk{}
	for _, name := range m.FileList {
		files[name] = filepath.Join(filepath.Dir(u.Plugin.Manifest), name)
	}
	// Both may have the same name.
	current, next := "current/"+filepath.Base(u.Plugin.Current), "target/"+filepath.Base(target)
	files[current], files[next] = u.Plugin.Current, target
	a := &arranged{base: m, files: files}
	a.upgrade = bundle.Upgrade{From: from, To: to, Plugins: []bundle.Plugin{{Current: current, Target: next, Response: len(m.Middleware.Response) > 0}},
		Switch: bundle.Switch{Mode: u.Switch.Mode, Name: u.Plugin.Bundle.Name, New: u.Switch.New, Force: u.Switch.Force}}
	if !u.Switch.sameName() {
		if err := u.running(a); err != nil {
			return nil, err
		}
	}
	if a.plan, err = bundle.ForUpgrade(a.upgrade); err != nil {
		return nil, err
	}
	a.manifest, err = a.plan.Manifest(m)
	return a, err
}

// running tells the plan which plugin paths the gateways have loaded.
func (u *upgrade) running(a *arranged) error {
	pluginPath := func(file string) (string, error) {
		b, err := preflight.Inspect(file)
		if err != nil {
			return "", err
		}
		return b.PluginPath, nil
	}
	a.upgrade.PluginPath = func(name string) (string, error) {
		if _, err := os.Stat(a.files[name]); errors.Is(err, fs.ErrNotExist) {
			return "", nil // still to be compiled
		}
		return pluginPath(a.files[name])
	}
	now := u.Plugin.Running
	if now == "" {
		now = u.Plugin.Current
	}
	loaded, err := pluginPath(now)
	a.upgrade.Switch.Running = []bundle.Open{{Bundle: u.Plugin.Bundle.Name, File: filepath.Base(now), PluginPath: loaded}}
	return err
}

// manifest is the one that is in use, or a new one for one function.
func (p *pluginConfig) manifest(from *semver.Version) (*bundle.Manifest, error) {
	if p.Manifest != "" {
		data, err := os.ReadFile(p.Manifest)
		if err != nil {
			return nil, err
		}
		m, err := bundle.Parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Manifest, err)
		}
		return m, nil
	}
	file := filepath.Base(p.Current)
	h := bundle.Hook{Name: p.Symbol, Path: p.name()}
	if r, _ := bundle.Resolve(h.Path, bundle.Loader{Gateway: from}, []string{file}); r.File == "" {
		h.Path = file
	}
	m := &bundle.Manifest{FileList: []string{file}, Middleware: bundle.Middleware{Driver: "goplugin"}}
	switch p.Hook {
	case "pre":
		m.Middleware.Pre = []bundle.Hook{h}
	case "auth_check":
		m.Middleware.AuthCheck = h
	case "post_key_auth":
		m.Middleware.PostKeyAuth = []bundle.Hook{h}
	case "post":
		m.Middleware.Post = []bundle.Hook{h}
	case "response":
		m.Middleware.Response = []bundle.Hook{h}
	}
	return m, nil
}

// disk is files by the names that a bundle's source has for them.
type disk map[string]string

func (d disk) Open(name string) (fs.File, error) {
	path, ok := d[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return os.Open(path)
}

// file is where the bundle is written, before it is published.
func (u *upgrade) bundleFile() string {
	return filepath.Join(u.Plugin.Bundle.Dir, u.publishedName())
}

// publishedName is the bundle's name on the bundle server.
func (u *upgrade) publishedName() string {
	if u.Switch.sameName() {
		return u.Plugin.Bundle.Name
	}
	return u.Switch.New
}

// bundle writes the bundle and verifies it for both versions.
func (u *upgrade) bundle(ctx context.Context) error {
	a, err := u.arrange(ctx)
	if err != nil {
		return err
	}
	o := bundle.Options{}
	if u.Plugin.Bundle.Key != "" {
		key, err := privateKey(u.Plugin.Bundle.Key)
		if err != nil {
			return err
		}
		o.Signer = key
	}
	if err := os.MkdirAll(u.Plugin.Bundle.Dir, 0o755); err != nil {
		return err
	}
	file := u.bundleFile()
	result, err := bundle.WriteUpgrade(ctx, file, a.files, a.base, a.upgrade, o)
	if err != nil {
		return err
	}
	note := bundleNote{File: file, SHA256: result.SHA256, Size: result.Size, Signed: o.Signer != nil, Asked: a.asked(), Loads: map[string]string{}}
	for version, files := range result.Loads {
		note.Loads[version] = strings.Join(files, ", ")
	}
	if note.Inputs, err = a.inputs(); err != nil {
		return err
	}
	u.written = note
	return rollout.Save(ctx, note)
}

func privateKey(path string) (*rsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := bundle.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func (a *arranged) inputs() (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range a.plan.FileList {
		path := a.files[a.plan.Sources[name]]
		sum, err := digest(path)
		if err != nil {
			return nil, err
		}
		sums[path] = sum
	}
	return sums, nil
}

// asked is a digest of the manifest as the file asks for it.
func (a *arranged) asked() string {
	h := sha256.New()
	_, _ = a.manifest.WriteTo(h)
	return hex.EncodeToString(h.Sum(nil))
}

// bundled trusts the bundle that the journal has as long as it is whole and what the file
// asks for, made of the present builds.
func (u *upgrade) bundled(ctx context.Context) (bool, error) {
	var note bundleNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	a, err := u.arrange(ctx)
	if err != nil || a.asked() != note.Asked || note.Signed != (u.Plugin.Bundle.Key != "") || note.File != u.bundleFile() {
		return false, err
	}
	now, err := a.inputs()
	if errors.Is(err, fs.ErrNotExist) || err == nil && !maps.Equal(now, note.Inputs) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	sum, err := digest(note.File)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	u.written = note
	return sum == note.SHA256, err
}

// bundleSteps publish the bundle and, if its name is new, name it in the APIs.
func (u *upgrade) bundleSteps() []rollout.Step {
	steps := []rollout.Step{{Name: "publish", Do: u.publish, Undo: u.unpublish}}
	if len(u.Switch.Rename) > 0 {
		rename := func(from, to string) func(context.Context) error {
			return func(ctx context.Context) error {
				return runCommand(ctx, u.Switch.Rename, map[string]string{"{from}": from, "{to}": to})
			}
		}
		steps = append(steps, rollout.Step{Name: "rename", Do: rename(u.Plugin.Bundle.Name, u.Switch.New), Undo: rename(u.Switch.New, u.Plugin.Bundle.Name)})
	}
	return steps
}

// unpublished says why nobody would know whether gateways get the bundle.
func (u *upgrade) unpublished() error {
	if b := u.Plugin.Bundle; b.Serve == "" && b.URL == "" {
		return errors.New("nothing says whether the bundle server has the bundle: give plugin.bundle.url, or the served directory as plugin.bundle.serve")
	}
	return nil
}

// publication is a bundle server's directory on this machine.
func (u *upgrade) publication() bundle.Publication {
	abs, _ := filepath.Abs(u.journal)
	sum := sha256.Sum256([]byte(abs))
	return bundle.Publication{Dir: u.Plugin.Bundle.Serve, Name: u.publishedName(), Run: hex.EncodeToString(sum[:8])}
}

// keptFile is the old bundle while a command publishes.
func (u *upgrade) keptFile() string {
	return filepath.Join(u.Plugin.Bundle.Dir, u.publishedName()+".before-upgrade")
}

// publish puts the bundle on its server. The old file is kept until the run is accepted.
// Gateways that run keep serving from their caches.
func (u *upgrade) publish(ctx context.Context) error {
	b, name := u.Plugin.Bundle, u.publishedName()
	var note publishNote
	if _, err := rollout.Saved(ctx, &note); err != nil {
		return err
	}
	note.Name = name
	want := bundle.Digest{Size: u.written.Size, SHA256: u.written.SHA256}
	at, err := b.at(name)
	if err != nil {
		return err
	}
	switch {
	case b.Serve != "":
		if _, err := u.publication().Publish(ctx, u.written.File); err != nil {
			return err
		}
	case len(b.Publish) > 0:
		if at != "" && note.Kept == "" && !note.None {
			switch _, err := bundle.Fetch(ctx, at, u.keptFile(), bundle.FetchOptions{}); {
			case errors.Is(err, fs.ErrNotExist):
				note.None = true
			case err != nil:
				return fmt.Errorf("keep the bundle that is published now: %w", err)
			default:
				note.Kept = u.keptFile()
			}
		}
		// From now on a revert knows what to put back.
		if err := rollout.Save(ctx, note); err != nil {
			return err
		}
		if err := runCommand(ctx, b.Publish, map[string]string{"{file}": u.written.File, "{name}": name}); err != nil {
			return fmt.Errorf("publish the bundle: %w", err)
		}
	}
	if at != "" {
		note.URL = redacted(at)
		if err := bundle.Served(ctx, at, want, bundle.FetchOptions{}); err != nil {
			return fmt.Errorf("%w; upload %s under the name %s, keep the old file, and resume", err, u.written.File, name)
		}
	}
	if b.Serve == "" && at == "" {
		note.Overridden = overridden(withoutPublish, u.unpublished())
	}
	return rollout.Save(ctx, note)
}

// unpublish serves the old bundle again. The hosts are back by then.
func (u *upgrade) unpublish(ctx context.Context) error {
	var note publishNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		if u.Plugin.Bundle.Serve == "" {
			return err
		}
	}
	switch b := u.Plugin.Bundle; {
	case b.Serve != "":
		return u.publication().Revert(ctx)
	case note.Kept != "":
		return runCommand(ctx, b.Publish, map[string]string{"{file}": note.Kept, "{name}": note.Name})
	}
	return nil // an old file that nobody kept here is the operator's to put back
}

// forgetBundle removes the old bundle of a run that is accepted.
func (u *upgrade) forgetBundle(ctx context.Context, rep *rollout.Report) error {
	if u.Plugin == nil {
		return nil
	}
	if u.Plugin.Bundle.Serve != "" {
		return u.publication().Accept(ctx)
	}
	var note publishNote
	if data := saved(rep, targetBundle, "publish"); data != nil {
		_ = json.Unmarshal(data, &note)
	}
	if err := os.Remove(note.Kept); note.Kept != "" && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// at is the address that gateways fetch a bundle from.
func (b bundleConfig) at(name string) (string, error) {
	if b.URL == "" {
		return "", nil
	}
	u, err := url.Parse(b.URL)
	if err != nil {
		return "", err
	}
	return u.JoinPath(name).String(), nil
}

func redacted(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return ""
	}
	return u.Redacted()
}

// runCommand runs the team's own command.
func runCommand(ctx context.Context, argv []string, words map[string]string) error {
	var out strings.Builder
	filled := make([]string, len(argv))
	for i, arg := range argv {
		for word, value := range words {
			arg = strings.ReplaceAll(arg, word, value)
		}
		filled[i] = arg
	}
	if err := debpkg.Local()(ctx, filled, nil, nil, &out); err != nil {
		return fmt.Errorf("%s: %w: %s", filled[0], err, strings.TrimSpace(out.String()))
	}
	return nil
}

// swap makes a gateway host fetch the bundle again while its service is stopped.
func (u *upgrade) swap(h fleet.Host) *fleet.Swap {
	return &fleet.Swap{Runner: u.Runner(h), Config: u.Switch.Config, Caches: func(config []byte, from, to debpkg.Version) ([]string, error) {
		var conf struct {
			Middleware string `json:"middleware_path"`
		}
		if err := json.Unmarshal(config, &conf); err != nil {
			return nil, fmt.Errorf("it is not JSON: %w", err)
		}
		if conf.Middleware != "" && !path.IsAbs(conf.Middleware) {
			conf.Middleware = path.Join("/opt/tyk-gateway", conf.Middleware) // the unit's working directory
		}
		apis := u.Switch.APIs
		if len(apis) == 0 {
			apis = []string{""}
		}
		var dirs []string
		for _, version := range []debpkg.Version{from, to} {
			if version.IsZero() {
				continue
			}
			v, err := health.ParseVersion(version.String())
			if err != nil {
				return nil, err
			}
			for _, api := range apis {
				all, err := bundle.CacheDir(v, conf.Middleware, api, u.Plugin.Bundle.Name)
				if err != nil {
					return nil, err
				}
				for _, c := range all {
					dirs = append(dirs, c.Dir)
				}
			}
		}
		return dirs, nil
	}}
}

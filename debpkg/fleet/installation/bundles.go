package installation

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/tykversion"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// arranged is a bundle before it is written.
type arranged struct {
	plan     *bundle.UpgradePlan
	upgrade  bundle.Upgrade
	base     *bundle.Manifest // in use now
	manifest *bundle.Manifest // with both builds
	files    disk
}

// versions returns the gateways' versions before and after.
func (u *Upgrade) versions() (from, to *semver.Version, err error) {
	if from, err = tykversion.Parse(u.Plugin.From); err == nil {
		to, err = u.release()
	}
	return from, to, err
}

// arrange finds names under which each version loads its own builds, and what running gateways do
// at the switch. It refuses a switch that interrupts traffic.
func (u *Upgrade) arrange(ctx context.Context, b Bundle) (*arranged, error) {
	from, to, err := u.versions()
	if err != nil {
		return nil, err
	}
	m, err := b.manifest(from)
	if err != nil {
		return nil, err
	}
	a := &arranged{base: m, files: disk{}, upgrade: bundle.Upgrade{From: from, To: to}}
	for _, name := range m.FileList {
		a.files[name] = filepath.Join(filepath.Dir(b.Manifest), name)
	}
	for i, one := range b.Plugins {
		target, err := u.target(ctx, one)
		if err != nil {
			return nil, err
		}
		// All of them may have the same base name.
		current, next := fmt.Sprintf("%d/current/%s", i, filepath.Base(one.Current)),
			fmt.Sprintf("%d/target/%s", i, filepath.Base(target))
		a.files[current], a.files[next] = one.Current, target
		a.upgrade.Plugins = append(a.upgrade.Plugins, bundle.Plugin{Current: current, Target: next,
			Response: len(m.Middleware.Response) > 0})
	}
	a.upgrade.Switch = bundle.Switch{Mode: u.Switch.Mode, Name: b.Name, New: b.New,
		Force: u.Switch.Force}
	if err := u.paths(b, a); err != nil {
		return nil, err
	}
	if a.plan, err = bundle.ForUpgrade(a.upgrade); err != nil {
		return nil, err
	}
	a.manifest, err = a.plan.Manifest(m)
	return a, err
}

// paths adds to the plan the plugin paths that gateways have loaded and will load. A single plugin
// that keeps its name cannot collide, so paths reads nothing for it.
func (u *Upgrade) paths(b Bundle, a *arranged) error {
	if all := u.bundles(); u.Switch.sameName() && len(all) == 1 && len(b.Plugins) == 1 {
		return nil
	}
	a.upgrade.PluginPath = func(name string) (string, error) { return pluginPath(a.files[name]) }
	for _, other := range u.bundles() {
		for _, one := range other.Plugins {
			now, list := one.Current, &a.upgrade.Switch.Others
			if other.Name == b.Name {
				if u.Switch.sameName() {
					continue
				}
				list = &a.upgrade.Switch.Running
				if one.Running != "" {
					now = one.Running
				}
			}
			loaded, err := pluginPath(now)
			if err != nil {
				return err
			}
			*list = append(*list, bundle.Open{Bundle: other.Name, File: filepath.Base(now),
				PluginPath: loaded})
		}
	}
	return nil
}

// pluginPath reads the plugin path of a build, or returns "" before it is compiled.
func pluginPath(file string) (string, error) {
	b, err := preflight.Inspect(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return b.PluginPath, nil
}

// manifest returns the manifest in use, or a new one for one function.
func (b Bundle) manifest(from *semver.Version) (*bundle.Manifest, error) {
	if b.Manifest != "" {
		return bundle.ParseFile(b.Manifest)
	}
	return bundle.ForHook(b.Hook, b.Symbol, b.Plugins[0].Current, from)
}

// disk maps names in a bundle's source to files.
type disk map[string]string

func (d disk) Open(name string) (fs.File, error) {
	path, ok := d[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return os.Open(path)
}

// bundleFile returns the path of a bundle before it is published.
func (u *Upgrade) bundleFile(b Bundle) string {
	return filepath.Join(u.Plugin.Bundle.Dir, u.publishedName(b))
}

// publishedName returns the bundle's name on the bundle server.
func (u *Upgrade) publishedName(b Bundle) string {
	if u.Switch.sameName() {
		return b.Name
	}
	return b.New
}

// writeBundle writes the bundle and verifies it for both versions.
func (u *Upgrade) writeBundle(ctx context.Context, b Bundle) error {
	a, err := u.arrange(ctx, b)
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
	file := u.bundleFile(b)
	result, err := bundle.WriteUpgrade(ctx, file, a.files, a.base, a.upgrade, o)
	if err != nil {
		return err
	}
	if o.Signer != nil { // over the whole zip, in addition to the one that gateways check
		if err := bundle.SignFile(ctx, file, o.Signer); err != nil {
			return err
		}
	}
	note := bundleNote{File: file, SHA256: result.SHA256, Size: result.Size, Signed: o.Signer != nil,
		Asked: a.asked(), Loads: map[string]string{}}
	for version, files := range result.Loads {
		note.Loads[version] = strings.Join(files, ", ")
	}
	if note.Inputs, err = a.inputs(); err != nil {
		return err
	}
	u.wrote(b, note)
	return rollout.Save(ctx, note)
}

// wrote remembers the bundle that is to be published.
func (u *Upgrade) wrote(b Bundle, note bundleNote) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.written[b.Name] = note
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

// verifyKey returns the key whose detached signature a bundle must have, or nil if it needs none.
func (u *Upgrade) verifyKey() (*rsa.PublicKey, error) {
	path := u.Plugin.Bundle.VerifyKey
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := bundle.ParsePublicKey(data)
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

// asked returns a digest of the manifest that the file describes.
func (a *arranged) asked() string {
	h := sha256.New()
	_, _ = a.manifest.WriteTo(h)
	return hex.EncodeToString(h.Sum(nil))
}

// bundled trusts the bundle in the journal while it is undamaged, matches the file, and contains
// the present builds.
func (u *Upgrade) bundled(ctx context.Context, b Bundle) (bool, error) {
	var note bundleNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	a, err := u.arrange(ctx, b)
	if err != nil || a.asked() != note.Asked || note.Signed != (u.Plugin.Bundle.Key != "") ||
		note.File != u.bundleFile(b) {
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
	u.wrote(b, note)
	return sum == note.SHA256, err
}

// digest returns the SHA-256 of a file, in hex.
func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

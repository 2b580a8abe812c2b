package main

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
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/atomicfile"
	runner "example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild"
)

// arranged is the bundle before it is written: everything but bytes.
type arranged struct {
	*bundle.UpgradePlan
	manifest *bundle.Manifest
	files    disk
	from, to *semver.Version
}

// arrange finds the names under which each version loads its own build.
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
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: from, To: to,
		Plugins: []bundle.Plugin{{Current: current, Target: next, Response: len(m.Middleware.Response) > 0}},
	})
	if err != nil {
		return nil, err
	}
	if m, err = plan.Manifest(m); err != nil {
		return nil, err
	}
	return &arranged{plan, m, files, from, to}, nil
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

// loads are the files that a version takes from the bundle.
func loads(m *bundle.Manifest, v *semver.Version) ([]string, error) {
	all, err := m.Resolve(v, "linux", "amd64")
	var files []string
	seen := map[string]bool{}
	for _, r := range all {
		if !seen[r.File] && r.File != "" {
			files = append(files, r.File)
		}
		seen[r.File] = true
	}
	return files, err
}

// bundle writes, verifies and proves the bundle. Its name says what is in it,
// because gateways never fetch the same name twice.
func (u *upgrade) bundle(ctx context.Context) error {
	a, err := u.arrange(ctx)
	if err != nil {
		return err
	}
	o, verify := bundle.Options{}, bundle.VerifyOptions{}
	if u.Plugin.Bundle.Key != "" {
		key, err := privateKey(u.Plugin.Bundle.Key)
		if err != nil {
			return err
		}
		o.Signer, verify.Key = key, &key.PublicKey
	}
	dir := u.Plugin.Bundle.Dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fresh := filepath.Join(dir, u.Plugin.Bundle.Name+".zip.new")
	result, err := bundle.WriteFile(ctx, fresh, a.FS(a.files), a.manifest, o)
	if err != nil {
		return err
	}
	note := bundleNote{File: filepath.Join(dir, result.Name(u.Plugin.Bundle.Name)), SHA256: result.SHA256, Signed: o.Signer != nil, Asked: a.asked()}
	if note.Loads, err = prove(fresh, result.Size, verify, a); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if note.Inputs, err = u.inputs(a); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := errors.Join(os.Rename(fresh, note.File), atomicfile.SyncDir(dir)); err != nil {
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

// prove verifies the file as it is on disk, and that each version takes its own
// build from it.
func prove(path string, size int64, o bundle.VerifyOptions, a *arranged) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	m, err := bundle.Verify(f, size, o)
	if err != nil {
		return nil, err
	}
	proof := map[string]string{}
	for _, want := range []struct {
		version *semver.Version
		file    string
	}{{a.from, a.Plugins[0].Current.File}, {a.to, a.Plugins[0].Target.File}} {
		files, err := loads(m, want.version)
		if err != nil {
			return nil, err
		}
		if text := strings.Join(files, ", "); !strings.Contains(", "+text+", ", ", "+want.file+", ") {
			return nil, fmt.Errorf("gateway %s would load %s from the bundle instead of %s", want.version, text, want.file)
		}
		proof[want.version.String()] = strings.Join(files, ", ")
	}
	return proof, nil
}

func (u *upgrade) inputs(a *arranged) (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range a.FileList {
		path := a.files[a.Sources[name]]
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

// bundled trusts the bundle that the journal has as long as it is whole and
// what the file asks for, made of the present builds.
func (u *upgrade) bundled(ctx context.Context) (bool, error) {
	var note bundleNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	a, err := u.arrange(ctx)
	if err != nil || a.asked() != note.Asked || note.Signed != (u.Plugin.Bundle.Key != "") || filepath.Dir(note.File) != u.Plugin.Bundle.Dir {
		return false, err
	}
	now, err := u.inputs(a)
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

// publish hands the bundle to the team's own command and looks whether the
// bundle server has it.
func (u *upgrade) publish(ctx context.Context) error {
	file, sum, b := u.written.File, u.written.SHA256, u.Plugin.Bundle
	name := filepath.Base(file)
	if len(b.Publish) > 0 {
		r := strings.NewReplacer("{file}", file, "{name}", name)
		argv := make([]string, len(b.Publish))
		for i, arg := range b.Publish {
			argv[i] = r.Replace(arg)
		}
		if err := runner.Local(runner.Options{})(ctx, argv, nil, nil, nil); err != nil {
			return fmt.Errorf("publish the bundle: %w", err)
		}
	}
	note := publishNote{Name: name}
	if b.URL != "" {
		u, err := url.Parse(b.URL)
		if err != nil {
			return err
		}
		u = u.JoinPath(name)
		note.URL = u.Redacted()
		if err := served(ctx, u.String(), sum); err != nil {
			return fmt.Errorf("look for the bundle on its server: %w; upload %s, name it in the APIs' custom_middleware_bundle, and resume", err, file)
		}
	}
	return rollout.Save(ctx, note)
}

func served(ctx context.Context, addr, sum string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", req.URL.Redacted(), resp.Status)
	}
	h := sha256.New()
	if _, err := io.Copy(h, resp.Body); err != nil {
		return fmt.Errorf("GET %s: %w", req.URL.Redacted(), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("GET %s: the answer has SHA-256 %s instead of %s", req.URL.Redacted(), got, sum)
	}
	return nil
}

package bundle

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
)

// UpgradeResult describes a bundle for two gateway versions that was written and verified.
type UpgradeResult struct {
	Result
	Plan *UpgradePlan
	// Loads lists by gateway version the files that the gateway loads at its start, in the order of
	// the hooks.
	Loads map[string][]string
}

// WriteUpgrade plans a bundle for both versions of u, writes it to path and verifies the written
// file. It checks structure, checksum, the signature if o signs, and the plan's manifest. It also
// checks that each version loads its own build of every plugin.
//
// m is the manifest in use. src has its files and those of u.Plugins. WriteUpgrade sets
// Plugin.Response for plugins that response hooks use.
//
// After an error or a kill, an earlier file at path is unchanged. A kill may leave path + ".new",
// which the next call replaces.
func WriteUpgrade(ctx context.Context, path string, src fs.FS, m *Manifest, u Upgrade,
	o Options) (*UpgradeResult, error) {
	const op = "write upgrade bundle"
	if m == nil || src == nil {
		return nil, &Error{Op: op, Err: errors.New("no manifest or no files given")}
	}
	u.Plugins = slices.Clone(u.Plugins)
	for i := range u.Plugins {
		u.Plugins[i].Response = u.Plugins[i].Response || m.usedByResponse(u, u.Plugins[i])
	}
	plan, err := ForUpgrade(u)
	if err != nil {
		return nil, err
	}
	n, err := plan.Manifest(m)
	if err != nil {
		return nil, err
	}
	fresh := path + ".new"
	result, err := WriteFile(ctx, fresh, plan.FS(src), n, o)
	if err != nil {
		return nil, err
	}
	r := &UpgradeResult{Result: result, Plan: plan}
	if r.Loads, err = plan.compare(fresh, n, o, result); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		if own := new(Error); !errors.As(err, &own) {
			err = &Error{Op: op, Object: path, Err: err, Retry: true}
		}
		return nil, errors.Join(err, os.Remove(fresh))
	}
	return r, syncParent(op, path)
}

func (m *Manifest) usedByResponse(u Upgrade, p Plugin) bool {
	if u.From == nil {
		return false // ForUpgrade refuses it
	}
	for _, h := range m.hooks() {
		r, _, _ := h.resolve(Loader{Gateway: u.From, GOOS: u.GOOS, GOARCH: u.GOARCH}, m.FileList)
		if h.response && r.File != "" && r.File == base(p.Current) {
			return true
		}
	}
	return false
}

// compare reads the file at path like a gateway, and compares what each release loads with the
// plan.
func (p *UpgradePlan) compare(path string, want *Manifest, o Options,
	wrote Result) (map[string][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v := VerifyOptions{Expect: want, SHA256: wrote.SHA256}
	if o.Signer != nil {
		v.Key, _ = o.Signer.Public().(*rsa.PublicKey)
	}
	m, err := Verify(f, wrote.Size, v)
	if err != nil {
		return nil, err
	}
	loads := map[string][]string{}
	for _, current := range []bool{true, false} {
		version := p.upgrade.To
		if current {
			version = p.upgrade.From
		}
		all, err := m.Resolve(version, p.upgrade.GOOS, p.upgrade.GOARCH)
		if err != nil {
			return nil, err
		}
		taken := map[string]bool{}
		for _, r := range all {
			if !taken[r.File] {
				loads[version.String()] = append(loads[version.String()], r.File)
			}
			taken[r.File] = true
		}
		for _, one := range p.Plugins {
			file, other := one.Target.File, one.Current.File
			if current {
				file, other = other, file
			}
			if !taken[file] || taken[other] {
				return nil, &Error{Op: "write upgrade bundle", Object: path, Kind: ErrNoUpgrade,
					Err: fmt.Errorf("gateway %s would load %v instead of %s", version,
						slices.Sorted(maps.Keys(taken)), file)}
			}
		}
	}
	return loads, nil
}

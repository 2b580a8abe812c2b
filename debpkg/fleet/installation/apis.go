package installation

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

// store returns the store of the API definitions, or nil if the file names none.
func (u *Upgrade) store(ctx context.Context) (apidef.Store, error) {
	a := u.APIs
	if a == nil {
		return nil, nil
	}
	var o apidef.ClientOptions
	if a.CA != "" {
		data, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, &Error{Op: "read", Object: a.CA, Kind: ErrFile,
				Err: errors.New("no certificate in PEM form"), Next: "fix apis.ca"}
		}
		o.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool,
			MinVersion: tls.VersionTLS12}}}
	}
	switch {
	case a.Directory != "":
		return apidef.Directory{Path: a.Directory}, nil
	case a.Gateway != "":
		secret, err := a.Secret.read(ctx, "apis.secret", u.env)
		return apidef.Gateway{URL: a.Gateway, Secret: secret, ClientOptions: o}, err
	}
	d := apidef.Dashboard{URL: a.Dashboard, ClientOptions: o}
	for _, key := range a.Keys {
		text, err := key.read(ctx, "apis.keys", u.env)
		if err != nil {
			return nil, err
		}
		d.Keys = append(d.Keys, text)
	}
	return d, nil
}

// inventory returns what the APIs use. Without a store, it returns the bundles of the file.
func (u *Upgrade) inventory(ctx context.Context) (inv *apidef.Inventory, known bool, err error) {
	from, _, err := u.versions()
	if err != nil {
		return nil, false, err
	}
	s, err := u.store(ctx)
	if err != nil {
		return nil, false, err
	}
	if s != nil {
		inv, err = apidef.List(ctx, s, from)
		return inv, true, err
	}
	inv = &apidef.Inventory{}
	for _, b := range u.bundles() {
		inv.Uses = append(inv.Uses, apidef.Use{API: "any", Value: b.Name, Bundles: []string{b.Name}})
	}
	return inv, false, nil
}

// checkUses compares what the APIs use with what the file provides, and the bundles' signatures
// with the keys of the hosts.
func (u *Upgrade) checkUses(ctx context.Context, waves []rollout.Wave) error {
	note, err := u.uses(ctx, u.HostsOf(waves))
	if err != nil && ctx.Err() == nil && u.without(CheckAPIs) {
		note.Overridden, err = overridden(CheckAPIs, err), nil
	}
	if serr := rollout.Save(ctx, note); serr != nil || err == nil {
		return serr
	}
	return u.refuse(CheckAPIs, err)
}

// uses returns everything that checkUses refuses, joined.
func (u *Upgrade) uses(ctx context.Context, hosts []fleet.Host) (note usesNote, err error) {
	inv, known, err := u.inventory(ctx)
	if err != nil {
		return note, err
	}
	var errs []error
	if known {
		for _, use := range inv.Uses {
			if !use.Inactive && (len(use.Bundles) > 0 && !use.Disabled || len(use.Plugins) > 0) {
				note.APIs++
			}
		}
		used := inv.Bundles()
		mine := map[string]bool{}
		for _, b := range u.bundles() {
			mine[b.Name], mine[b.New] = true, true
			if used[b.Name] == nil && used[b.New] == nil {
				note.Notes = append(note.Notes, "no active API uses bundle "+b.Name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(used)) {
			if !mine[name] {
				errs = append(errs, fmt.Errorf("bundle %s of API %s has no build for the new version in the "+
					"file: add it to bundles", name, strings.Join(used[name], ", ")))
			}
		}
		disk := inv.OnDisk()
		for _, path := range slices.Sorted(maps.Keys(disk)) {
			errs = append(errs, fmt.Errorf("%s loads %s from the gateway's disk, and no bundle contains a "+
				"build for the new version", strings.Join(disk[path], ", "), path))
		}
	}
	problems, notes, err := u.signatures(ctx, inv, hosts)
	note.Notes = append(note.Notes, notes...)
	return note, errors.Join(append(append(errs, problems...), err)...)
}

// signatures checks the bundles against public_key_path of each gateway host.
func (u *Upgrade) signatures(ctx context.Context, inv *apidef.Inventory,
	hosts []fleet.Host) (problems []error, notes []string, err error) {
	from, to, err := u.versions()
	if err != nil {
		return nil, nil, err
	}
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h fleet.Host) bool {
		return !fleet.IsGateway(
			h.Component)
	})
	keys := make([]*rsa.PublicKey, len(hosts))
	if err := fleet.Each(hosts, func(i int, h fleet.Host) (err error) {
		keys[i], err = u.publicKey(ctx, h)
		return err
	}); err != nil {
		return nil, nil, err
	}
	var with []apidef.Host
	for i, h := range hosts {
		if keys[i] != nil {
			with = append(with, apidef.Host{Name: h.Name, From: from, To: to, Key: keys[i]})
		}
	}
	if len(with) == 0 {
		return nil, nil, nil
	}
	dir, err := os.MkdirTemp("", "tykupgrade-bundles-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	found, err := inv.Signatures(ctx, with, func(ctx context.Context, name string) (string, error) {
		for _, b := range u.bundles() {
			if b.Name == name || b.New == name {
				return u.bundleFile(b), nil
			}
		}
		return u.fetch(ctx, dir, name)
	})
	for _, f := range found {
		if f.Blocks {
			problems = append(problems, errors.New(f.String()))
		} else {
			notes = append(notes, f.String())
		}
	}
	return problems, notes, err
}

// fetch downloads a bundle that this upgrade does not build.
func (u *Upgrade) fetch(ctx context.Context, dir, name string) (string, error) {
	at, err := bundle.Upload{URL: u.Plugin.Bundle.URL, Name: name}.At()
	switch {
	case err != nil:
		return "", err
	case at == "" && u.Plugin.Bundle.Serve != "":
		return filepath.Join(u.Plugin.Bundle.Serve, filepath.Base(name)), nil
	case at == "":
		return "", errors.New("plugin.bundle.url is missing")
	}
	path := filepath.Join(dir, filepath.Base(name))
	_, err = bundle.Fetch(ctx, at, path, bundle.FetchOptions{})
	return path, err
}

// publicKey reads the key that public_key_path of a host's tyk.conf names. It returns nil if none
// is set or the host has no gateway yet.
func (u *Upgrade) publicKey(ctx context.Context, h fleet.Host) (*rsa.PublicKey, error) {
	if now, err := u.Installed(ctx, h); err != nil || now.IsZero() {
		return nil, err
	}
	config := u.Switch.Config
	if config == "" {
		config = "/opt/tyk-gateway/tyk.conf"
	}
	read := func(path string) ([]byte, error) {
		var out, stderr bytes.Buffer
		if err := u.Runner(h)(ctx, []string{"cat", "--", path}, nil, &out, &stderr); err != nil {
			return nil, &Error{Op: "read", Object: path, Err: fmt.Errorf("%w: %s", err,
				strings.TrimSpace(stderr.String())), Retry: true}
		}
		return out.Bytes(), nil
	}
	data, err := read(config)
	if err != nil {
		return nil, err
	}
	var conf struct {
		Key string `json:"public_key_path"`
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return nil, &Error{Op: "read", Object: config, Err: errors.New("it is not JSON"),
			Next: "fix the file"}
	}
	if conf.Key == "" {
		return nil, nil
	}
	if data, err = read(conf.Key); err != nil {
		return nil, err
	}
	key, err := bundle.ParsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", conf.Key, err)
	}
	return key, nil
}

// apisJournal is the file with the definitions from before a change of the bundle's name.
func (u *Upgrade) apisJournal(b Bundle) string { return u.Journal + ".apis." + b.Name }

// rename changes every API that names the old bundle to the new one.
func (u *Upgrade) rename(ctx context.Context, b Bundle) error {
	s, err := u.store(ctx)
	if err != nil {
		return err
	}
	journal := u.apisJournal(b)
	plan, err := apidef.ReadJournal(journal) // of an earlier attempt
	if errors.Is(err, os.ErrNotExist) {
		var a *arranged
		if a, err = u.arrange(ctx, b); err != nil {
			return err
		}
		plan, err = apidef.NewPlan(ctx, s, apidef.Change{From: b.Name, To: b.New, Gateway: a.upgrade.From,
			Switch: a.plan.Switch, Force: u.Switch.Force})
	}
	if err != nil {
		return err
	}
	return apidef.Apply(ctx, s, plan, journal)
}

func (u *Upgrade) renameBack(ctx context.Context, b Bundle) error {
	s, err := u.store(ctx)
	if err != nil {
		return err
	}
	return apidef.Revert(ctx, s, u.apisJournal(b))
}

// apiIDs returns the APIs that name one of the bundles. Without a store, the file lists them.
func (u *Upgrade) apiIDs(names []string) ([]string, error) {
	if len(u.Switch.APIs) > 0 || u.APIs == nil {
		return u.Switch.APIs, nil
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	inv, _, err := u.inventory(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	used := inv.Bundles()
	for _, name := range names {
		ids = append(ids, used[name]...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

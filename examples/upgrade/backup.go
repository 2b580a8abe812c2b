package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// setNote is what the journal keeps of the backup.
type setNote struct {
	Dir        string    `json:"dir,omitempty"`
	Taken      time.Time `json:"taken,omitzero"`
	Components []string  `json:"components,omitempty"`
	Bytes      int64     `json:"bytes,omitempty"`
	Existing   bool      `json:"existing,omitempty"` // not taken by this run
	Warnings   []string  `json:"warnings,omitempty"`
	Overridden string    `json:"overridden,omitempty"`
}

// backup takes a set, which is verified before it counts, or verifies the one
// that was named.
func (u *upgrade) backup(ctx context.Context) error {
	if u.without[withoutBackup] {
		return rollout.Save(ctx, setNote{Overridden: overridden(withoutBackup, errors.New("no set was taken or verified"))})
	}
	if u.begun {
		var note setNote
		if ok, err := rollout.Saved(ctx, &note); err != nil {
			return err
		} else if ok && note.Dir != "" {
			// A set of now would hold hosts that are upgraded.
			return refuse(withoutBackup, fmt.Errorf("the set %s of this run is gone or damaged, and hosts have been changed since; look for a copy of it", note.Dir))
		}
	}
	open := u.take
	if u.existing() != "" {
		open = u.named
	}
	set, warnings, err := open(ctx)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			return err
		}
		return refuse(withoutBackup, err)
	}
	missing, err := u.complete(set)
	if err != nil {
		return err
	}
	warnings = append(warnings, missing...)
	note := setNote{Dir: set.Dir, Taken: set.Start, Bytes: set.Bytes(), Existing: u.existing() != "", Warnings: warnings}
	for _, comp := range set.Components {
		note.Components = append(note.Components, comp.Name)
		for _, w := range comp.Warnings {
			note.Warnings = append(note.Warnings, comp.Name+": "+w)
		}
	}
	return rollout.Save(ctx, note)
}

func (u *upgrade) existing() string {
	if u.options.set != "" {
		return u.options.set
	}
	return u.Backup.Set
}

// backedUp trusts the set that the journal has as long as it verifies, and
// before the first host as long as it is fresh.
func (u *upgrade) backedUp(ctx context.Context) (bool, error) {
	var note setNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	if note.Dir == "" {
		return note.Overridden != "" && (u.begun || u.without[withoutBackup]), nil
	}
	if !u.begun && time.Since(note.Taken) > u.Backup.fresh() {
		return false, nil
	}
	set, err := backup.Open(note.Dir)
	if err != nil {
		return false, nil
	}
	return set.Verify(ctx, backup.VerifyOptions{}) == nil, ctx.Err()
}

// machines are the hosts with the name of their component in the set. Several
// components on one machine share theirs.
func (c *config) machines() (hosts []fleet.Host, component map[string]string) {
	component = map[string]string{}
	seen := map[string]string{}
	for _, h := range c.Hosts {
		at := fmt.Sprint(h.Address, " ", h.Port)
		if seen[at] == "" {
			seen[at] = "config/" + h.Name
			hosts = append(hosts, h)
		}
		component[h.Name] = seen[at]
	}
	return hosts, component
}

// take makes a new set, and lets go of old ones.
func (u *upgrade) take(ctx context.Context) (*backup.Set, []string, error) {
	var sources []backup.Source
	hosts, component := u.machines()
	for _, h := range hosts {
		f := &hostfiles.Source{Component: component[h.Name], Paths: u.Backup.Paths}
		if h.Address == "local" && !u.SSH.Sudo {
			f.FS = os.DirFS("/")
		} else {
			f.Runner = backup.Runner(u.Runner(h))
		}
		sources = append(sources, f)
	}
	if u.Backup.Redis != nil {
		client, err := u.redis()
		if err != nil {
			return nil, nil, err
		}
		defer func() { _ = client.Close() }()
		sources = append(sources, &redisdb.Source{Client: client, Method: redisdb.Method(u.Backup.Redis.Method)})
	}
	if u.Backup.Mongo != nil {
		server, err := u.mongo()
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, &mongodb.Source{Server: server, Databases: u.Backup.Mongo.Databases})
	}
	if u.Backup.Postgres != nil {
		server, err := u.postgres()
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, &postgres.Source{Server: server, Databases: u.Backup.Postgres.Databases})
	}
	versions, err := u.versions(ctx)
	if err != nil {
		return nil, nil, err
	}
	set, err := backup.Take(ctx, u.Backup.Dir, backup.Options{Label: u.label(), Packages: versions, Progress: u.progress}, sources...)
	if err != nil {
		return nil, nil, err
	}
	if u.Backup.Redis != nil && u.Backup.Redis.Proof {
		stored, _ := set.Component("redis")
		if err := (&redisdb.Scratch{}).Prove(ctx, stored); err != nil {
			return nil, nil, err
		}
	}
	var warnings []string
	if u.Backup.Keep > 0 || u.Backup.MaxAge > 0 {
		// The set is good whatever becomes of older ones.
		if _, err := backup.Prune(ctx, u.Backup.Dir, backup.Policy{Keep: u.Backup.Keep, MaxAge: time.Duration(u.Backup.MaxAge)}); err != nil {
			warnings = append(warnings, "old sets: "+err.Error())
		}
	}
	return set, warnings, nil
}

func (u *upgrade) progress(e backup.Event) {
	u.event(targetBackup, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Component, e.Phase, e.Item)))
}

// label is for the manifest: "before gateway 5.2.5, pump 1.9.0".
func (u *upgrade) label() string {
	var parts []string
	for _, component := range u.Order {
		if v := u.Versions[component]; v != "" {
			parts = append(parts, component+" "+v)
		}
	}
	return "before " + strings.Join(parts, ", ")
}

// versions are those that the set belongs to, by host and package.
func (u *upgrade) versions(ctx context.Context) (map[string]string, error) {
	found := make([]string, len(u.Hosts))
	err := fleet.Each(u.Hosts, func(i int, h fleet.Host) error {
		v, err := u.Installed(ctx, h)
		found[i] = v.String()
		return err
	})
	all := map[string]string{}
	for i, h := range u.Hosts {
		if found[i] != "" {
			all[h.Name+"/"+h.Package] = found[i]
		}
	}
	return all, err
}

// named opens and verifies an existing set: it must be fresh and hold all that
// the file asks for.
func (u *upgrade) named(ctx context.Context) (*backup.Set, []string, error) {
	set, err := u.open(u.existing())
	if err != nil {
		return nil, nil, err
	}
	if err := set.Verify(ctx, backup.VerifyOptions{Progress: u.progress}); err != nil {
		return nil, nil, err
	}
	if age := time.Since(set.Start); age > u.Backup.fresh() {
		return nil, nil, fmt.Errorf("the set %s is %v old, backup.fresh allows %v", set.Dir, age.Round(time.Minute), u.Backup.fresh())
	}
	var missing []string
	for _, name := range u.wanted() {
		if _, ok := set.Component(name); !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("the set %s lacks %s", set.Dir, strings.Join(missing, ", "))
	}
	return set, nil, nil
}

// wanted are the components that a set must have.
func (c *config) wanted() []string {
	hosts, component := c.machines()
	var names []string
	for _, h := range hosts {
		names = append(names, component[h.Name])
	}
	if c.Backup.Redis != nil {
		names = append(names, "redis")
	}
	if c.Backup.Mongo != nil {
		names = append(names, "mongo")
	}
	if c.Backup.Postgres != nil {
		names = append(names, "postgres")
	}
	return names
}

// open finds a set by its id, its directory or as the latest.
func (c *config) open(name string) (*backup.Set, error) {
	if name != "latest" {
		if !strings.Contains(name, "/") {
			name = filepath.Join(c.Backup.Dir, name)
		}
		return backup.Open(name)
	}
	sets, err := backup.List(c.Backup.Dir)
	if len(sets) == 0 {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, errors.Join(fmt.Errorf("%s holds no set; one is taken where neither -set nor backup.set names one", c.Backup.Dir), err)
	}
	return sets[0], nil
}

func (u *upgrade) redis() (redis.UniversalClient, error) {
	uri, err := u.Backup.Redis.read(u.env)
	if err != nil {
		return nil, fmt.Errorf("the URI of Redis: %w", err)
	}
	conf, err := cli.ClientTLS(u.Backup.Redis.CA, u.Backup.Redis.Cert, u.Backup.Redis.Key)
	if err != nil {
		return nil, fmt.Errorf("the certificates for Redis: %w", err)
	}
	return redisdb.NewClient(uri, conf)
}

func (u *upgrade) mongo() (mongodb.Server, error) {
	uri, err := u.Backup.Mongo.read(u.env)
	if err != nil {
		return mongodb.Server{}, fmt.Errorf("the URI of MongoDB: %w", err)
	}
	return mongodb.Server{URI: uri}, nil
}

func (u *upgrade) postgres() (postgres.Server, error) {
	uri, err := u.Backup.Postgres.read(u.env)
	if err != nil {
		return postgres.Server{}, fmt.Errorf("the URI of PostgreSQL: %w", err)
	}
	return postgres.Server{URI: uri, Bin: u.Backup.Postgres.Bin}, nil
}

// complete refuses a set that lacks a database which the hosts' own configuration
// names, unless somebody else backs it up.
func (u *upgrade) complete(set *backup.Set) ([]string, error) {
	var lines []string
	for _, n := range backup.Missing(set.Missing(), u.Backup.External...) {
		lines = append(lines, n.String()+", and the backup does not have it")
	}
	if len(lines) == 0 || u.without[withoutDatabase] {
		return lines, nil
	}
	return nil, refuse(withoutDatabase, fmt.Errorf("%s; add it to the section backup, or name it in backup.external if somebody else backs it up", strings.Join(lines, "; ")))
}

// secrets are what no record may hold. A URI that cannot be read has none.
func (u *upgrade) secrets() []string {
	var uris []string
	if b := u.Backup; b != nil {
		for _, s := range []*secret{b.redis(), b.mongo(), b.postgres()} {
			if s == nil {
				continue
			}
			if uri, err := s.read(u.env); err == nil {
				uris = append(uris, uri)
			}
		}
	}
	if u.Plugin != nil {
		for _, name := range u.Plugin.Compiler.Env {
			uris = append(uris, u.env(name))
		}
	}
	var all []string
	for _, uri := range uris {
		if w := words(uri); len(w) > 1 { // without a password it is no secret
			all = append(all, w...)
		}
	}
	return all
}

// restore brings back what was asked for from the set of the run: files, with
// the restarts that they need, then data. In the end all hosts are healthy.
func (u *upgrade) restore(ctx context.Context, dir string, what []string) (backup.Report, error) {
	set, err := u.open(dir)
	if err != nil {
		return backup.Report{}, err
	}
	rescue := filepath.Clean(u.Backup.Dir) + ".rescued" // next to the sets, so that none of them counts as the latest
	var files, data []backup.Restorer
	hosts, component := u.machines()
	if slices.Contains(what, "config") {
		for _, h := range hosts {
			f := &hostfiles.Restore{Component: component[h.Name], Paths: u.Backup.Paths, Rescue: rescue}
			if h.Address != "local" || u.SSH.Sudo {
				f.Runner = backup.Runner(u.Runner(h))
			}
			files = append(files, f)
		}
	}
	if slices.Contains(what, "redis") {
		client, err := u.redis()
		if err != nil {
			return backup.Report{}, err
		}
		defer func() { _ = client.Close() }()
		data = append(data, &redisdb.Live{Client: client, Replace: true, StateDir: rescue})
	}
	if slices.Contains(what, "mongo") {
		server, err := u.mongo()
		if err != nil {
			return backup.Report{}, err
		}
		data = append(data, &mongodb.Restore{Server: server, Mode: mongodb.Replace, DropExtra: u.dropExtra})
	}
	if slices.Contains(what, "postgres") {
		server, err := u.postgres()
		if err != nil {
			return backup.Report{}, err
		}
		data = append(data, &postgres.Restore{Server: server, Databases: u.Backup.Postgres.Databases, Replace: true, EndClients: true})
	}
	report := backup.Report{Set: set.ID}
	for _, to := range [][]backup.Restorer{files, data} {
		if len(to) == 0 {
			continue
		}
		// Each part before the next: a Redis that loads makes gateways unhealthy,
		// and none could be drained.
		part, err := set.Restore(ctx, backup.RestoreOptions{Progress: u.progress}, to...)
		for _, c := range part.Components {
			if c.State != backup.StateNotRequested {
				report.Components = append(report.Components, c)
			}
		}
		if err == nil {
			err = u.restart(ctx, part)
		}
		if err != nil {
			return report, err
		}
	}
	if err := u.Baseline(ctx, u.Hosts); err != nil {
		return report, fmt.Errorf("wait for the hosts after the restore: %w", err)
	}
	return report, nil
}

// restart lets services read their files again where the restore changed some.
func (u *upgrade) restart(ctx context.Context, report backup.Report) error {
	_, component := u.machines()
	changed := map[string]bool{}
	for _, c := range report.Components {
		changed[c.Name] = slices.ContainsFunc(c.Items, func(i backup.Item) bool { return i.Action == backup.ActionCreate || i.Action == backup.ActionReplace })
	}
	var names []string
	for _, h := range u.Hosts {
		if !changed[component[h.Name]] {
			continue
		}
		if v, err := u.Installed(ctx, h); err != nil {
			return err
		} else if !v.IsZero() {
			names = append(names, h.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	waves, err := u.Restarts(names...)
	if err == nil {
		_, err = rollout.Run(ctx, waves, rollout.Options{})
	}
	if err != nil {
		return fmt.Errorf("restart %s after their files were restored: %w", strings.Join(names, ", "), err)
	}
	return nil
}

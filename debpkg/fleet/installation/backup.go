package installation

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"os"
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
)

// backup takes and verifies a set, or verifies the existing set that was named.
func (u *Upgrade) backup(ctx context.Context) error {
	if u.without(CheckBackup) {
		return rollout.Save(ctx, setNote{Overridden: overridden(CheckBackup,
			errors.New("no set was taken or verified"))})
	}
	if u.begun {
		var note setNote
		if ok, err := rollout.Saved(ctx, &note); err != nil {
			return err
		} else if ok && note.Dir != "" {
			// A new set would contain hosts that are upgraded already.
			return u.refuse(CheckBackup, fmt.Errorf("the set %s of this run is gone or damaged, and hosts "+
				"have been changed since; find a copy of it", note.Dir))
		}
	}
	open := u.take
	if u.existing() != "" {
		open = u.named
	}
	set, warnings, err := open(ctx)
	if err == nil {
		err = u.signed(set)
	}
	if err != nil {
		return u.refuse(CheckBackup, err)
	}
	missing, err := u.complete(set)
	if err != nil {
		return err
	}
	note := setNote{Dir: set.Dir, Taken: set.Start, Bytes: set.Bytes(), Existing: u.existing() != "",
		Warnings: append(warnings, missing...)}
	for _, comp := range set.Components {
		note.Components = append(note.Components, comp.Name)
		for _, w := range comp.Warnings {
			note.Warnings = append(note.Warnings, comp.Name+": "+w)
		}
	}
	return rollout.Save(ctx, note)
}

// existing returns the name of an existing set to use, or "".
func (u *Upgrade) existing() string {
	if u.Set != "" {
		return u.Set
	}
	return u.Backup.Set
}

// backedUp trusts the set in the journal while it verifies. Until the first host has begun, the set
// must also be fresh.
func (u *Upgrade) backedUp(ctx context.Context) (bool, error) {
	var note setNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	if note.Dir == "" {
		return note.Overridden != "" && (u.begun || u.without(CheckBackup)), nil
	}
	if !u.begun && time.Since(note.Taken) > u.Backup.fresh() {
		return false, nil
	}
	set, err := backup.Open(note.Dir)
	if err != nil {
		return false, nil
	}
	return u.signed(set) == nil && set.Verify(ctx, backup.VerifyOptions{}) == nil, ctx.Err()
}

// signers returns the keys, one of which must have signed a set. With no keys, sets need no
// signature.
func (u *Upgrade) signers() ([]crypto.PublicKey, error) {
	if u.Backup.RequireSignature == "" {
		return nil, nil
	}
	return backup.ReadPublicKeys(u.Backup.RequireSignature)
}

// signed refuses a set without the signature that the file requires.
func (u *Upgrade) signed(set *backup.Set) error {
	keys, err := u.signers()
	if err != nil || len(keys) == 0 {
		return err
	}
	return set.VerifySignature(keys...)
}

// take makes a new set, and removes old ones.
func (u *Upgrade) take(ctx context.Context) (*backup.Set, []string, error) {
	var signer crypto.Signer
	var sources []backup.Source
	if u.Backup.Sign != "" {
		var err error
		if signer, err = backup.ReadSigner(u.Backup.Sign); err != nil {
			return nil, nil, err
		}
	} else if u.Backup.RequireSignature != "" {
		return nil, nil, errors.New("backup.require_signature: a new set needs backup.sign, the key that " +
			"signs it")
	}
	hosts, _ := u.Machines()
	for _, h := range hosts {
		f := &hostfiles.Source{Component: configOf(h.Name), Paths: u.Backup.Paths}
		if h.Address == "local" && !u.SSH.Sudo {
			f.FS = os.DirFS("/")
		} else {
			f.Runner = u.Runner(h)
		}
		sources = append(sources, f)
	}
	db, err := u.databases(ctx)
	defer db.close()
	if err != nil {
		return nil, nil, err
	}
	b := u.Backup
	if db.redis != nil {
		sources = append(sources, &redisdb.Source{Client: db.redis,
			Method: redisdb.Method(b.Redis.Method)})
	}
	if b.Mongo != nil {
		sources = append(sources, &mongodb.Source{Server: db.mongo, Databases: b.Mongo.Databases})
	}
	if b.Postgres != nil {
		sources = append(sources, &postgres.Source{Server: db.postgres, Databases: b.Postgres.Databases})
	}
	versions, err := u.packages(ctx)
	if err != nil {
		return nil, nil, err
	}
	set, err := backup.Take(ctx, b.Dir, backup.Options{Label: "before " + u.Label(),
		Packages: versions, Signer: signer, Progress: u.backingUp}, sources...)
	if err != nil {
		return nil, nil, err
	}
	if b.Redis != nil && b.Redis.Proof {
		stored, _ := set.Component("redis")
		if err := (&redisdb.Scratch{}).Prove(ctx, stored); err != nil {
			return nil, nil, err
		}
	}
	var warnings []string
	if b.Keep > 0 || b.MaxAge > 0 {
		// The set is good even if older ones cannot be removed.
		if _, err := backup.Prune(ctx, b.Dir, backup.Policy{Keep: b.Keep,
			MaxAge: time.Duration(b.MaxAge)}); err != nil {
			warnings = append(warnings, "old sets: "+err.Error())
		}
	}
	return set, warnings, nil
}

// configOf returns the name of the component with the files of a machine.
func configOf(host string) string { return "config/" + host }

func (u *Upgrade) backingUp(e backup.Event) {
	u.event(TargetBackup, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Component, e.Phase, e.Item)))
}

// packages returns the installed packages by host and package, for the manifest.
func (u *Upgrade) packages(ctx context.Context) (map[string]string, error) {
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

// named verifies an existing set. It must be complete and fresh, and match the installed versions.
func (u *Upgrade) named(ctx context.Context) (*backup.Set, []string, error) {
	set, err := backup.Find(u.Backup.Dir, u.existing())
	if err != nil {
		return nil, nil, err
	}
	if err := set.Verify(ctx, backup.VerifyOptions{Progress: u.backingUp}); err != nil {
		return nil, nil, err
	}
	if age := time.Since(set.Start); age > u.Backup.fresh() {
		return nil, nil, fmt.Errorf("the set %s is %v old, backup.fresh allows %v", set.Dir,
			age.Round(time.Minute), u.Backup.fresh())
	}
	if err := set.Covers(u.wanted(), nil); err != nil {
		return nil, nil, err
	}
	versions, err := u.packages(ctx)
	if err != nil {
		return nil, nil, err
	}
	// A set from another program has other keys, which do not concern these hosts.
	maps.DeleteFunc(versions, func(key, _ string) bool { return set.Packages[key] == "" })
	return set, nil, set.Covers(u.wanted(), versions)
}

// wanted returns the components that a set must have.
func (f *File) wanted() []string {
	var names []string
	hosts, _ := f.Machines()
	for _, h := range hosts {
		names = append(names, configOf(h.Name))
	}
	for _, name := range []string{"redis", "mongo", "postgres"} {
		if f.Backup.uris()[name] != nil {
			names = append(names, name)
		}
	}
	return names
}

// complete refuses a set without a database that the hosts' own configuration names, unless
// somebody else backs it up.
func (u *Upgrade) complete(set *backup.Set) ([]string, error) {
	var lines []string
	for _, n := range backup.Missing(set.Missing(), u.Backup.External...) {
		lines = append(lines, n.String()+", and the backup does not have it")
	}
	if len(lines) == 0 || u.without(CheckDatabase) {
		return lines, nil
	}
	return nil, u.refuse(CheckDatabase, fmt.Errorf("%s; add it to the section backup, or name it in "+
		"backup.external if somebody else backs it up", strings.Join(lines, "; ")))
}

// databases has the database servers that the file names.
type databases struct {
	redis    redis.UniversalClient
	mongo    mongodb.Server
	postgres postgres.Server
}

func (d databases) close() {
	if d.redis != nil {
		_ = d.redis.Close()
	}
}

// databases reads URIs and certificates and opens no connection. The caller closes the result after
// an error too. The error names everything that is missing.
func (u *Upgrade) databases(ctx context.Context) (databases, error) {
	var d databases
	var errs []error
	uris := map[string]string{}
	for name, uri := range u.Backup.uris() {
		text, err := uri.secret().read(ctx, "the URI of backup."+name, u.env)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uris[name] = text
	}
	for name := range uris {
		switch name {
		case "redis":
			r := u.Backup.Redis
			conf, err := redisdb.ReadTLS(r.CA, r.Cert, r.Key)
			if err != nil {
				errs = append(errs, fmt.Errorf("the certificates for Redis: %w", err))
				continue
			}
			d.redis, err = redisdb.NewClient(uris[name], conf)
			errs = append(errs, err)
		case "mongo":
			d.mongo = mongodb.Server{URI: uris[name]}
		case "postgres":
			d.postgres = postgres.Server{URI: uris[name], Bin: u.Backup.Postgres.Bin}
		}
	}
	return d, errors.Join(errs...)
}

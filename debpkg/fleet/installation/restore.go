package installation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg/rollout"
)

// Restorables returns the parts of a backup that [Upgrade.Restore] can restore.
func Restorables() []string { return []string{"config", "redis", "mongo", "postgres"} }

// Restorable verifies and returns the set of the run in the journal, and when it was taken. It
// refuses parts that the file or the set does not have. Call it before a revert.
func (u *Upgrade) Restorable(ctx context.Context, parts []string) (*backup.Set, time.Time, error) {
	refuse := func(err error, next string) (*backup.Set, time.Time, error) {
		return nil, time.Time{}, &Error{Op: "restore", Object: strings.Join(parts, ", "),
			Kind: ErrRefused, Err: err, Next: next}
	}
	rep, err := u.History()
	if err != nil {
		return nil, time.Time{}, err
	}
	var note setNote
	if data := rep.Saved(TargetBackup, "set"); data != nil {
		_ = json.Unmarshal(data, &note)
	}
	switch {
	case u.Backup == nil:
		return refuse(errors.New("the file has no section backup"), "add the section of the run")
	case note.Dir == "":
		return refuse(errors.New("the run has no backup; nothing was undone"), "")
	}
	for _, part := range parts {
		if !slices.Contains(Restorables(), part) {
			return refuse(fmt.Errorf("unknown part %q (want %s)", part, strings.Join(Restorables(), ", ")),
				"")
		}
		if part != "config" && u.Backup.uris()[part] == nil {
			return refuse(fmt.Errorf("the file's section backup has no %s", part), "add it")
		}
	}
	set, err := backup.Open(note.Dir)
	if err == nil {
		err = u.signed(set)
	}
	if err == nil {
		err = set.Verify(ctx, backup.VerifyOptions{})
	}
	if err != nil {
		return refuse(fmt.Errorf("%w; nothing was undone", err), "")
	}
	return set, note.Taken, nil
}

// Restore restores parts of a set: files first, with the restarts that they need, then data. It
// returns once all hosts are healthy. The replaced files and data stay next to the directory of the
// sets, under its name with .rescued added.
func (u *Upgrade) Restore(ctx context.Context, set *backup.Set,
	parts []string) (backup.Report, error) {
	// next to the sets, so that none of them counts as the latest
	rescue := filepath.Clean(u.Backup.Dir) + ".rescued"
	var files, data []backup.Restorer
	if slices.Contains(parts, "config") {
		hosts, _ := u.Machines()
		for _, h := range hosts {
			f := &hostfiles.Restore{Component: configOf(h.Name), Paths: u.Backup.Paths, Rescue: rescue}
			if h.Address != "local" || u.SSH.Sudo {
				f.Runner = u.Runner(h)
			}
			files = append(files, f)
		}
	}
	db, err := u.databases(ctx)
	defer db.close()
	if err != nil && !slices.Equal(parts, []string{"config"}) { // files need no database
		return backup.Report{Set: set.ID}, err
	}
	for _, part := range parts {
		switch part {
		case "redis":
			data = append(data, &redisdb.Live{Client: db.redis, Replace: true, StateDir: rescue})
		case "mongo":
			data = append(data, &mongodb.Restore{Server: db.mongo, Mode: mongodb.Replace,
				DropExtra: u.DropExtra})
		case "postgres":
			data = append(data, &postgres.Restore{Server: db.postgres,
				Databases: u.Backup.Postgres.Databases, Replace: true, EndClients: true})
		}
	}
	keys, err := u.signers()
	if err != nil {
		return backup.Report{Set: set.ID}, err
	}
	report, err := set.RestoreStages(ctx, backup.RestoreOptions{RequireSignature: keys,
		Progress: u.backingUp}, u.restart, files, data)
	if err != nil {
		return report, err
	}
	if err := u.Baseline(ctx, u.Hosts); err != nil {
		return report, fmt.Errorf("wait for the hosts after the restore: %w", err)
	}
	return report, nil
}

// restart restarts the services whose files the restore changed.
func (u *Upgrade) restart(ctx context.Context, report backup.Report) error {
	_, of := u.Machines()
	changed := map[string]bool{}
	for _, c := range report.Components {
		changed[c.Name] = c.Changed() > 0
	}
	var names []string
	for _, h := range u.Hosts {
		if !changed[configOf(of[h.Name])] {
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
		return fmt.Errorf("restart %s after their files were restored: %w", strings.Join(names, ", "),
			err)
	}
	return nil
}

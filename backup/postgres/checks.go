package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
)

// existing is a database that the server has.
type existing struct {
	OID     uint32 `json:"oid"`
	Owner   string `json:"owner"`
	Mine    bool   `json:"mine"`
	Clients int    `json:"clients"`
	Comment string `json:"comment"`
	// EndClients cannot end these. Prepared transactions prevent a rename, and a slot would
	// continue with the replaced database.
	Prepared []string `json:"prepared"`
	Slots    []string `json:"slots"`
}

// look returns the database of that name, or nil.
func (s *session) look(name string) (*existing, error) {
	var found []existing
	err := s.rows(`SELECT oid::bigint AS oid, pg_get_userbyid(datdba) AS owner, pg_has_role(datdba, 'MEMBER') AS mine,
		coalesce(shobj_description(oid, 'pg_database'), '') AS comment,
		(SELECT count(*) FROM pg_stat_activity WHERE datid = d.oid AND pid <> pg_backend_pid() AND backend_type = 'client backend') AS clients,
		ARRAY(SELECT gid FROM pg_prepared_xacts WHERE database = d.datname ORDER BY gid) AS prepared,
		ARRAY(SELECT slot_name FROM pg_replication_slots WHERE database = d.datname ORDER BY slot_name) AS slots
		FROM pg_database d WHERE datname = `+quoteLiteral(name), &found)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func (r *Restore) checkServer(ctx context.Context, w *work, q *session) error {
	if w.facts.Standby {
		return &backup.Error{Op: "restore into", Object: w.c.String(), Kind: backup.ErrNotAllowed,
			Err: errors.New("the server is a standby"), Next: "name the primary"}
	}
	if w.facts.major() < w.d.Major {
		return &backup.Error{Op: "restore into", Object: w.c.String(), Kind: backup.ErrTooNew,
			Err:  fmt.Errorf("the set is from PostgreSQL %s, the server is %s", w.d.Server, w.facts.Version),
			Next: "restore into the same major version or a newer one"}
	}
	tools, err := w.c.versions(ctx, "pg_restore", "pg_dump")
	if err != nil {
		return err
	}
	restore, dump := tools[0], tools[1]
	switch {
	case restore.major < w.d.DumpMajor:
		return &backup.Error{Op: "restore with", Object: "pg_restore " + restore.text,
			Kind: ErrToolTooOld, Err: fmt.Errorf("pg_dump %s wrote the set", w.d.Dump),
			Next: fmt.Sprintf("install postgresql-client-%d where the tools run", w.d.DumpMajor)}
	case dump.major < w.facts.major():
		return &backup.Error{Op: "compare with", Object: "pg_dump " + dump.text, Kind: ErrToolTooOld,
			Err:  fmt.Errorf("the server is %s", w.facts.Version),
			Next: fmt.Sprintf("install postgresql-client-%d where the tools run", w.facts.major())}
	case !w.facts.Create:
		return &backup.Error{Op: "restore into", Object: w.c.String(), Kind: backup.ErrNotAllowed,
			Err:  fmt.Errorf("user %s has no permission to create databases", w.facts.User),
			Next: "ALTER ROLE … CREATEDB, or use another user"}
	}
	return nil
}

// checkNeeds checks what a database needs from the server, because a dump does not contain it:
// roles, tablespaces, extensions, a locale.
func (r *Restore) checkNeeds(w *work, q *session, db Database) error {
	var missing []string
	ask := func(what string, names []string, from string) error {
		var have []string
		if len(names) == 0 {
			return nil
		}
		if err := q.json("SELECT coalesce(json_agg(n), '[]') FROM ("+from+") q(n)", &have); err != nil {
			return err
		}
		for _, n := range names {
			if !slices.Contains(have, n) {
				missing = append(missing, what+" "+n)
			}
		}
		return nil
	}
	roles := db.Roles
	if r.NoOwner {
		roles = nil
	} else if !slices.Contains(roles, db.Owner) {
		roles = append(slices.Clone(roles), db.Owner)
	}
	if err := errors.Join(
		ask("role", roles, "SELECT rolname FROM pg_roles"),
		ask("tablespace", db.Spaces, "SELECT spcname FROM pg_tablespace"),
		ask("extension", db.Extensions, "SELECT name FROM pg_available_extensions"),
	); err != nil {
		return err
	}
	if db.Provider == "" {
		var have []string
		if err := q.json("SELECT coalesce(json_agg(DISTINCT collcollate), '[]') FROM pg_collation "+
			"WHERE collcollate IS NOT NULL", &have); err != nil {
			return err
		}
		for i := range have {
			have[i] = locale(have[i])
		}
		for _, l := range []string{db.Collate, db.CType} {
			if n := locale(l); n != "c" && n != "posix" && !slices.Contains(have, n) &&
				!slices.Contains(missing, "locale "+l) {
				missing = append(missing, "locale "+l)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &backup.Error{Op: "restore", Object: "database " + db.Name, Kind: ErrMissing,
		Err:  errors.New(strings.Join(missing, ", ")),
		Next: "create or install it on the target; for roles NoOwner restores without them"}
}

// locale unifies the spelling of operating systems: en_US.UTF-8 is en_US.utf8.
func locale(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "") }

// checkLive refuses a database that the swap could not replace.
func (r *Restore) checkLive(w *work, db Database, live existing) error {
	fail := func(kind error, why, next string) error {
		return &backup.Error{Op: "replace", Object: "database " + db.Name, Kind: kind,
			Err: errors.New(why), Next: next}
	}
	switch {
	case !r.Replace:
		return fail(backup.ErrNotEmpty, "it exists", "set Restore.Replace to replace it")
	case !live.Mine && !w.facts.Super:
		return fail(backup.ErrNotAllowed, fmt.Sprintf("user %s is not a member of its owner %s",
			w.facts.User, live.Owner), "use the owner")
	case len(live.Prepared) > 0:
		return fail(ErrInUse, "it has open prepared transactions: "+listed(live.Prepared),
			"end each in that database with COMMIT PREPARED or ROLLBACK PREPARED")
	case len(live.Slots) > 0:
		return fail(ErrInUse, "logical replication slots read it, and would continue with the replaced "+
			"database: "+listed(live.Slots),
			"end the replication and drop each slot with pg_drop_replication_slot")
	case live.Clients > 0 && !r.EndClients:
		return &backup.Error{Op: "replace", Object: "database " + db.Name, Kind: ErrInUse,
			Err:  fmt.Errorf("%d client sessions use it", live.Clients),
			Next: "stop the clients first, or set EndClients", Retry: true}
	}
	return nil
}

// listed returns the first few names, safe to print.
func listed(names []string) string {
	text := strings.Join(names[:min(len(names), 5)], ", ")
	if more := len(names) - 5; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return printable(text)
}

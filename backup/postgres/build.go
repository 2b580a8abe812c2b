package postgres

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// build creates a database under name, fills it from the archive and compares it.
func (r *Restore) build(ctx context.Context, w *work, q *session, db Database, name string,
	report func(string)) (uint32, error) {
	if _, err := q.query(w.drop(name)); err != nil {
		return 0, err
	}
	sql := fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING %s LC_COLLATE %s LC_CTYPE %s",
		quoteIdent(name), quoteLiteral(db.Encoding), quoteLiteral(db.Collate), quoteLiteral(db.CType))
	if db.Provider == "i" {
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + quoteLiteral(db.ICULocale)
	}
	if !r.NoOwner {
		sql += " OWNER " + quoteIdent(db.Owner)
	}
	if _, err := q.query(sql); err != nil {
		return 0, err
	}
	if err := r.fill(ctx, w, db, name, report); err != nil {
		return 0, err
	}
	for _, sql := range r.properties(db, name) {
		if _, err := q.query(sql); err != nil {
			return 0, err
		}
	}
	if err := w.compare(ctx, db, name, r.NoOwner); err != nil {
		return 0, err
	}
	made, err := q.look(name)
	if err != nil {
		return 0, err
	}
	if made == nil {
		return 0, &backup.Error{Op: "look up", Object: "database " + name, Kind: ErrNoDatabase,
			Err: fmt.Errorf("somebody dropped it")}
	}
	return made.OID, nil
}

// fill runs pg_restore. If the tools run on this machine, it restores in parallel from the file,
// otherwise from stdin.
func (r *Restore) fill(ctx context.Context, w *work, db Database, name string,
	report func(string)) error {
	args := []string{"--exit-on-error", "--no-password", "--verbose", "--dbname=" + w.c.conninfo(name)}
	if r.NoOwner {
		args = append(args, "--no-owner", "--no-privileges")
	}
	var stdin io.Reader
	if w.c.s.Runner == nil {
		file := filepath.Join(w.s.Dir, filepath.FromSlash(db.File))
		args = append(args, fmt.Sprintf("--jobs=%d", r.jobs(w.s, db)), file)
	} else {
		f, err := w.s.Open(db.File)
		if err != nil {
			return err
		}
		defer f.Close()
		stdin = &step.ReadMeter{Ctx: ctx, R: f}
	}
	return w.c.tool(ctx, stdin, io.Discard, func(line string) {
		if table, ok := strings.CutPrefix(line, `pg_restore: processing data for table "`); ok {
			report(db.Name + ": " + printable(strings.TrimSuffix(table, `"`)))
		}
	}, "pg_restore", args...)
}

// jobs returns the number of parallel jobs. For a small archive, the connections of a second job
// take longer than the rows.
func (r *Restore) jobs(s *backup.Stored, db Database) int {
	if r.Jobs != 0 {
		return r.Jobs
	}
	for _, f := range s.Files {
		if f.Path == db.File && f.Size < smallArchive {
			return 1
		}
	}
	return 2
}

const smallArchive = 256 << 10

// properties returns the properties of the database itself, which an archive does not have.
func (r *Restore) properties(db Database, name string) []string {
	id := quoteIdent(name)
	sql := []string{fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", id, db.Limit)}
	for _, s := range db.Settings {
		key, value, _ := strings.Cut(s, "=")
		if key == "search_path" || key == "temp_tablespaces" { // lists, stored as they are written
			sql = append(sql, fmt.Sprintf("ALTER DATABASE %s SET %s TO %s", id, key, value))
			continue
		}
		sql = append(sql, fmt.Sprintf("ALTER DATABASE %s SET %s TO %s", id, settingName(key),
			quoteLiteral(value)))
	}
	if r.NoOwner {
		return sql
	}
	if len(db.Grants) > 0 {
		sql = append(sql, "REVOKE ALL ON DATABASE "+id+" FROM PUBLIC")
	}
	for _, g := range db.Grants {
		role, option := "PUBLIC", ""
		if g.Role != "" {
			role = quoteIdent(g.Role)
		}
		if g.Grantable {
			option = " WITH GRANT OPTION"
		}
		sql = append(sql, fmt.Sprintf("GRANT %s ON DATABASE %s TO %s%s", g.Privilege, id, role, option))
	}
	return sql
}

// settingName quotes each part of a name such as myapp.user.
func settingName(key string) string {
	parts := strings.Split(key, ".")
	for i := range parts {
		parts[i] = quoteIdent(parts[i])
	}
	return strings.Join(parts, ".")
}

// compare compares a database with the archive. It compares statements as text if server and
// pg_dump have the major versions of the set. Otherwise the text may differ, and only names, rows,
// sequences and large objects count.
func (w *work) compare(ctx context.Context, db Database, name string, bare bool) error {
	var want objects
	if !bare {
		want = read.get(digest(w.s, db))
	}
	if want == nil {
		var err error
		if want, err = archive(ctx, w.s, w.d, db, bare); err != nil {
			return err
		}
	}
	args := []string{"--format=plain", "--no-password", "--dbname=" + w.c.conninfo(name)}
	if bare {
		args = append(args, "--no-owner", "--no-privileges")
	}
	got, err := w.c.script(ctx, nil, "pg_dump", args...)
	if err != nil {
		return err
	}
	lines, n := want.differences(got, 10)
	if n > 0 && w.dump == 0 { // the version matters only then
		tool, err := w.c.version(ctx, "pg_dump")
		if err != nil {
			return err
		}
		w.dump = tool.major
	}
	if n > 0 && (w.dump != w.d.DumpMajor || w.facts.major() != w.d.Major) {
		want.forgetWords()
		got.forgetWords()
		lines, n = want.differences(got, 10)
	}
	if n == 0 {
		return nil
	}
	return &backup.Error{Op: "compare", Object: "database " + name, Kind: backup.ErrDiffers,
		Err: fmt.Errorf("%d differences: %s", n, strings.Join(lines, "; "))}
}

// forgetWords removes everything in which archives of different versions may differ.
func (o objects) forgetWords() {
	for key, x := range o {
		switch x.Type {
		case "TABLE DATA", "SEQUENCE SET", "BLOB DATA":
		case "TABLE ATTACH", "INDEX ATTACH": // separate entries since pg_dump 14
			delete(o, key)
		default:
			x.sum = [2]uint64{}
		}
	}
}

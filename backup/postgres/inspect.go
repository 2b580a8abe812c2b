package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// serverFacts are facts of the whole server.
type serverFacts struct {
	Version string `json:"version"`
	Num     int    `json:"num"`
	Standby bool   `json:"standby"`
	Super   bool   `json:"super"`
	Create  bool   `json:"create"`
	User    string `json:"user"`
}

func (s *session) server() (serverFacts, error) {
	var f serverFacts
	err := s.json(`SELECT json_build_object('version', current_setting('server_version'), 'num', current_setting('server_version_num')::int,
		'standby', pg_is_in_recovery(), 'user', current_user,
		'super', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
		'create', (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user))`, &f)
	return f, err
}

func (f serverFacts) major() int { return f.Num / 10000 }

// snapshot opens a transaction with a snapshot and exports it. It locks the tables first, because
// TRUNCATE and a rewriting ALTER TABLE change what an older snapshot sees (15).
func (s *session) snapshot() (id, lsn string, err error) {
	tables, err := s.tables()
	if err != nil {
		return "", "", err
	}
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	for part := range slices.Chunk(tables, 100) {
		var names []string
		for _, t := range part {
			names = append(names, "ONLY "+quoteIdent(t.Schema)+"."+quoteIdent(t.Name))
		}
		sql += "; LOCK TABLE " + strings.Join(names, ", ") + " IN ACCESS SHARE MODE"
	}
	if _, err := s.query(sql); err != nil {
		return "", "", err
	}
	var v struct{ ID, LSN string }
	err = s.json(`SELECT json_build_object('ID', pg_export_snapshot(),
		'LSN', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)`, &v)
	return v.ID, v.LSN, err
}

// database reads the manifest's entry for the current database in the session's snapshot, without
// the numbers of rows.
func (s *session) database() (Database, error) {
	var d Database
	err := s.json(`SELECT row_to_json(q) FROM (SELECT datname AS name, pg_get_userbyid(datdba) AS owner,
		pg_encoding_to_char(encoding) AS encoding, datcollate AS collate, datctype AS ctype,
		coalesce(to_jsonb(d)->>'datlocprovider', 'c') AS locale_provider,
		coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', '') AS icu_locale,
		coalesce(shobj_description(d.oid, 'pg_database'), '') AS comment, datconnlimit AS connection_limit, pg_database_size(oid) AS size,
		(SELECT to_json(setconfig) FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole = 0) AS settings,
		(SELECT json_agg(json_build_object('role', CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee) END,
			'privilege', a.privilege_type, 'grantable', a.is_grantable))
			FROM aclexplode(d.datacl) a) AS grants,
		(SELECT json_agg(DISTINCT extname) FROM pg_extension WHERE extname <> 'plpgsql') AS extensions,
		(SELECT json_agg(DISTINCT spcname) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE spcname NOT LIKE 'pg\_%') AS tablespaces,
		(SELECT json_agg(DISTINCT rolname) FROM pg_shdepend x JOIN pg_roles r ON r.oid = x.refobjid
			WHERE x.refclassid = 'pg_authid'::regclass AND x.dbid = d.oid AND rolname NOT LIKE 'pg\_%') AS roles
		FROM pg_database d WHERE datname = current_database()) q`, &d)
	if err != nil {
		return d, err
	}
	if d.Provider == "c" || d.Provider == "d" {
		d.Provider = ""
	}
	d.Tables, err = s.tables()
	return d, err
}

// tables returns the tables of the current database that have rows of their own.
func (s *session) tables() (tables []Table, err error) {
	err = s.rows(`SELECT n.nspname AS schema, c.relname AS name, pg_table_size(c.oid) AS bytes
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
		AND NOT EXISTS (SELECT 1 FROM pg_depend p WHERE p.classid = 'pg_class'::regclass AND p.objid = c.oid AND p.deptype = 'e')
		ORDER BY 1, 2`, &tables)
	return tables, err
}

// count counts the rows of every table in the session's snapshot.
func (s *session) count(tables []Table) error {
	const batch = 50
	for i := 0; i < len(tables); i += batch {
		part := tables[i:min(i+batch, len(tables))]
		var each []string
		for _, t := range part {
			each = append(each, fmt.Sprintf("(SELECT count(*) FROM ONLY %s.%s)", quoteIdent(t.Schema),
				quoteIdent(t.Name)))
		}
		var counts []int64
		if err := s.json("SELECT json_build_array("+strings.Join(each, ", ")+")", &counts); err != nil {
			return err
		}
		for j, n := range counts {
			part[j].Rows = n
		}
	}
	return nil
}

package postgres

import (
	"errors"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
)

// A full disk shows in several ways: a block may fit in part.
func TestDiskFullSayings(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`ERROR:  could not extend file "base/16392/16398": No space left on device`,
		`pg_restore: error: COPY failed for table "t": ERROR:  could not extend file ` +
			`"base/16392/16398": wrote only 4096 of 8192 bytes at block 1859`,
		`ERROR:  53100: could not write to file "base/pgsql_tmp/pgsql_tmp1.0"`,
	} {
		err := toolError(t.Context(), "pg_restore", []string{line,
			"pg_restore: error: a worker process died unexpectedly"}, errors.New("exit status 1"))
		if e := (*backup.Error)(nil); !errors.Is(err, backup.ErrNoSpace) || !errors.As(err, &e) || !e.Retry {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestURIs(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string][3]string{ // conninfo, password, what errors show
		"postgresql://u:p%40ss%3A%2F%3F%23%25@db:5433/tyk?sslmode=verify-full": {
			"postgresql://u@db:5433/x?sslmode=verify-full", "p@ss:/?#%", "postgresql://u@db:5433"},
		"postgres://db/tyk?password=secret&user=u": {"postgres://db/x?user=u",
			"secret", "postgresql://db"},
		"postgresql:///tyk?host=/run/postgresql": {
			"postgresql:///x?host=%2Frun%2Fpostgresql", "", "postgresql:///run/postgresql"},
	} {
		got, err := parseURI(uri)
		if err != nil || got.conninfo("x") != want[0] || got.password != want[1] ||
			got.String() != want[2] || got.database != "tyk" {
			t.Errorf("%s: %v %q %q %q", uri, err, got.conninfo("x"), got.password, got.String())
		}
	}
	for uri, want := range map[string]bool{"postgresql://db/x": true,
		"postgresql://db/x?sslmode=require": false, "postgresql://127.0.0.1/x": false,
		"postgresql:///x?host=/run": false, "postgresql://db/x?sslmode=prefer": true} {
		if got, err := parseURI(uri); err != nil || got.plaintext() != want {
			t.Errorf("%s: plaintext %t, %v", uri, !want, err)
		}
	}
}

// No error and no argument shows a part of a password, whatever the URI is.
func FuzzURI(f *testing.F) {
	for _, s := range []string{"postgresql://u:CANARY@h/db", "postgresql://u:%zzCANARY@h",
		"u:CANARY@h", "postgresql://h/db?password=CANARY", "postgresql://u:CANARY?x@h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		got, err := parseURI(uri)
		if err != nil {
			if strings.Contains(err.Error(), "CANARY") {
				t.Errorf("error %v", err)
			}
			return
		}
		if strings.Contains(got.password, "CANARY") && strings.Count(uri, "CANARY") == 1 &&
			strings.Contains(got.conninfo("db")+got.String(), "CANARY") {
			t.Errorf("%q shows the password: %s", uri, got)
		}
	})
}

func TestScriptIsReadWhole(t *testing.T) {
	t.Parallel()
	const head = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n"
	const tail = "--\n-- PostgreSQL database dump complete\n--\n\n"
	table := func(rows ...string) string {
		return "--\n-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: o\n--\n\nCOPY " +
			"public.t (x) FROM stdin;\n" + strings.Join(append(rows, `\.`), "\n") + "\n\n\n"
	}
	read := func(text string) objects {
		t.Helper()
		o, err := readScript(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	long := strings.Repeat("x", 600<<10)
	a := read(head + table("1", "2", long) + tail)
	for name, other := range map[string]objects{
		"order": read(strings.Replace(head, "abc", "xyz", 1) + table(long, "2", "1") + tail),
	} {
		if lines, n := a.differences(other, 5); n != 0 {
			t.Errorf("%s: %q", name, lines)
		}
	}
	for name, other := range map[string]string{
		"a row less": table("1", long), "a row changed": table("1", "3", long),
		"a long row changed":   table("1", "2", long+"y"),
		"swapped between rows": table("12", "", long), "nothing": "",
	} {
		if _, n := a.differences(read(head+other+tail), 5); n != 1 {
			t.Errorf("%s: %d differences", name, n)
		}
	}
	for _, cut := range []string{head, head + table("1"), head + "COPY"} {
		if _, err := readScript(strings.NewReader(cut)); err == nil {
			t.Errorf("a dump that ends early passed: %.40q", cut)
		}
	}
}

// Large objects as pg_dump 15 and 17 write them are the same, and a change of one is found.
func TestLargeObjects(t *testing.T) {
	t.Parallel()
	const tail = "-- PostgreSQL database dump complete\n"
	content := func(oid, hex string) string {
		return "SELECT pg_catalog.lo_open('" + oid + "', 131072);\n" + hex +
			"SELECT pg_catalog.lo_close(0);\n\n"
	}
	write := func(hex string) string { return `SELECT pg_catalog.lowrite(0, '\x` + hex + "');\n" }
	of15 := "-- Name: 1; Type: BLOB; Schema: -; Owner: o\n--\nSELECT pg_catalog.lo_create('1');\n\n" +
		"ALTER LARGE OBJECT 1 OWNER TO o;\n" +
		"-- Name: 2; Type: BLOB; Schema: -; Owner: o\n--\nSELECT pg_catalog.lo_create('2');\n" +
		"ALTER LARGE OBJECT 2 OWNER TO o;\n" +
		"-- Name: LARGE OBJECT 2; Type: ACL; Schema: -; Owner: o\nGRANT SELECT ON LARGE OBJECT 2 TO r;\n" +
		"-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -\n--\nBEGIN;\n\n" +
		content("1", write("00ff")+write("11")) + content("2", write("22")) + "COMMIT;\n\n" + tail
	of17 := "-- Name: 1..2; Type: BLOB METADATA; Schema: -; Owner: o\n--\n" +
		"SELECT pg_catalog.lo_create('1');\nSELECT pg_catalog.lo_create('2');\n\n" +
		"ALTER LARGE OBJECT 1 OWNER TO o;\nALTER LARGE OBJECT 2 OWNER TO o;\n" +
		"-- Name: LARGE OBJECTS 2; Type: ACL; Schema: -; Owner: o\nGRANT SELECT ON LARGE OBJECT 2 TO r;\n" +
		"-- Data for Name: 1; Type: BLOBS; Schema: -; Owner: o\nBEGIN;\n" +
		content("1", write("00ff11")) + "COMMIT;\n" +
		"-- Data for Name: 2; Type: BLOBS; Schema: -; Owner: o\nBEGIN;\n" + content("2", write("22")) +
		"COMMIT;\n" + tail
	read := func(text string) objects {
		t.Helper()
		o, err := readScript(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	a := read(of15)
	if lines, n := a.differences(read(of17), 9); n != 0 || len(a) != 4 {
		t.Errorf("%d objects, %q", len(a), lines)
	}
	for old, changed := range map[string]string{
		"00ff": "00fe", "SELECT ON LARGE OBJECT 2": "UPDATE ON LARGE OBJECT 2",
		"OBJECT 1 OWNER TO o": "OBJECT 1 OWNER TO p",
	} {
		lines, n := a.differences(read(strings.Replace(of17, old, changed, 1)), 9)
		if n != 1 || !strings.HasPrefix(lines[0], "blob") {
			t.Errorf("%s: %q", changed, lines)
		}
	}
	if _, n := a.differences(read(strings.Replace(of17, content("2", write("22")), "", 1)), 9); n != 1 {
		t.Errorf("the content of one is missing: %d differences", n)
	}
	open := strings.Replace(of17, content("2", write("22")), "SELECT pg_catalog.lo_open('2', 131072);\n", 1)
	if _, err := readScript(strings.NewReader(open)); err == nil {
		t.Error("a dump that ends within a large object passed")
	}
}

func FuzzScript(f *testing.F) {
	f.Add("-- Name: t; Type: TABLE; Schema: s; Owner: o\nCREATE\n-- Data for Name: t; Type: TABLE " +
		"DATA; Schema: s; Owner: o\nCOPY t FROM stdin;\n1\n\\.\n-- PostgreSQL database dump complete\n")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := readScript(strings.NewReader(s))
		if err != nil {
			return
		}
		b, _ := readScript(strings.NewReader(s))
		if lines, n := a.differences(b, 3); n != 0 {
			t.Errorf("a dump differs from itself: %q", lines)
		}
	})
}

func TestRunNames(t *testing.T) {
	t.Parallel()
	for _, db := range []string{"tyk_analytics", strings.Repeat("x", 63), strings.Repeat("ü", 31)} {
		if got := runName(db, "new", "01234567"); len(got) > 63 || !strings.HasSuffix(got,
			"_tykupgrade_new_01234567") || strings.ContainsRune(got, '�') {
			t.Errorf("%q", got)
		}
	}
}

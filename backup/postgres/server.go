package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/run"
)

// Server sets how to reach a PostgreSQL server and where the tools run.
type Server struct {
	// URI is a libpq connection URI: postgresql://user@host:5432/database with sslmode,
	// sslrootcert and the other parameters of libpq. A password in it appears neither in argv
	// nor in errors. Empty: Service, or libpq's environment variables (PGHOST, PGUSER,
	// PGPASSWORD, …).
	URI string
	// Service is an entry of pg_service.conf, used when URI is empty.
	Service string
	// Maintenance is the database for connections that read catalogs, and create and rename
	// databases. Empty: postgres.
	Maintenance string
	// Password is the password of the user in URI. The tools get it through a pipe and an
	// environment variable. Empty: the one in URI, or in libpq's password file.
	Password string
	// PassFile is a password file in libpq's format, where the tools run.
	PassFile string
	// Runner runs the tools. nil: on this machine.
	Runner backup.Runner
	// Bin is the directory of psql, pg_dump and pg_restore where Runner runs. Empty: the newest
	// version below /usr/lib/postgresql (Debian), otherwise PATH.
	Bin string
}

// script exports what must not be in argv and finds the newest tools. The
// password is the first line of stdin; read takes it byte by byte, so the rest
// of stdin is the tool's. PGTZ makes timestamps of two servers comparable.
const script = `IFS= read -r p || :
if [ -n "$p" ]; then PGPASSWORD=$p; export PGPASSWORD; fi
p=
if [ -n "$2" ]; then PGPASSFILE=$2; export PGPASSFILE; fi
best=0
if [ -n "$1" ]; then PATH=$1:$PATH; else
  for d in /usr/lib/postgresql/*/bin; do
    v=${d#/usr/lib/postgresql/}; v=${v%%[./]*}
    if [ -x "$d/$3" ] && [ "$v" -gt "$best" ] 2>/dev/null; then best=$v; dir=$d; fi
  done
  if [ "$best" -gt 0 ]; then PATH=$dir:$PATH; fi
fi
LC_ALL=C PGTZ=UTC PGAPPNAME=tykupgrade PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-15}
export PATH LC_ALL PGTZ PGAPPNAME PGCONNECT_TIMEOUT
shift 2
`

// A session's stdin stays open, so a Runner would wait for it after psql has ended. The shell
// reports the end of psql.
const (
	once    = script + `exec "$@"`
	telling = script + `"$@"; code=$?; printf '\n%s\n' '` + gone + `'; exit $code`
)

// client runs the tools for one server.
type client struct {
	target
	s   Server
	run backup.Runner
}

// Check refuses a URI or a password that cannot be used. It connects to nothing.
func (s Server) Check() error {
	_, err := s.client()
	return err
}

func (s Server) client() (*client, error) {
	c := &client{s: s, run: s.Runner, target: target{service: s.Service}}
	if s.URI != "" {
		t, err := parseURI(s.URI)
		if err != nil {
			return nil, &backup.Error{Op: "read", Object: "connection URI", Kind: ErrConnection, Err: err}
		}
		c.target = *t
	}
	if s.Password != "" {
		c.password = s.Password
	}
	if strings.ContainsAny(c.password, "\n\x00") {
		return nil, &backup.Error{Op: "read", Object: "password", Kind: ErrConnection,
			Err: errors.New("it holds a line break")}
	}
	if c.run == nil {
		c.run = run.Local(run.Options{Grace: 10 * time.Second})
	}
	return c, nil
}

func (c *client) maintenance() string {
	if c.s.Maintenance != "" {
		return c.s.Maintenance
	}
	return "postgres"
}

// tool runs one program. stderr is read line by line while it runs.
func (c *client) tool(ctx context.Context, stdin io.Reader, stdout io.Writer, line func(string),
	name string, args ...string) error {
	return c.shell(ctx, once, stdin, stdout, line, name, args...)
}

func (c *client) shell(ctx context.Context, script string, stdin io.Reader, stdout io.Writer,
	line func(string), name string, args ...string) error {
	argv := append([]string{"sh", "-c", script, "sh", c.s.Bin, c.s.PassFile, name}, args...)
	in := io.Reader(strings.NewReader(c.password + "\n"))
	if stdin != nil {
		in = io.MultiReader(in, stdin)
	}
	errs := &lines{each: line}
	err := c.run(ctx, argv, in, stdout, errs)
	errs.flush()
	if err == nil {
		return nil
	}
	return toolError(ctx, name, errs.tail(), err)
}

var versionNumber = lazyregexp.New(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// toolVersion is a program's version.
type toolVersion struct {
	major int
	text  string
}

// versions asks each of the tools for its version, in one call.
func (c *client) versions(ctx context.Context, names ...string) ([]toolVersion, error) {
	var out strings.Builder
	err := c.shell(ctx, script+`for t in "$@"; do "$t" --version || exit; done`, nil, &out, nil,
		names[0], names[1:]...)
	if err != nil {
		return nil, &backup.Error{Op: "run", Object: strings.Join(names, ", "), Kind: ErrTools, Err: err,
			Next: "install postgresql-client where the tools run, or set Bin to the directory that has them"}
	}
	var all []toolVersion
	said := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, name := range names {
		var m []string
		if len(said) == len(names) {
			m = versionNumber.FindStringSubmatch(said[i])
		}
		if m == nil {
			return nil, &backup.Error{Op: "run", Object: name, Kind: ErrTools,
				Err: fmt.Errorf("unknown version %q", strings.TrimSpace(out.String()))}
		}
		major, _ := strconv.Atoi(m[1])
		all = append(all, toolVersion{major, strings.TrimPrefix(m[0], "(PostgreSQL) ")})
	}
	return all, nil
}

// version asks one tool.
func (c *client) version(ctx context.Context, name string) (toolVersion, error) {
	all, err := c.versions(ctx, name)
	if err != nil {
		return toolVersion{}, err
	}
	return all[0], nil
}

// lines splits a stream into lines, keeps its last ones and passes each on.
type lines struct {
	each func(string)
	rest []byte
	last []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := strings.IndexByte(string(l.rest), '\n')
		if i < 0 {
			if len(l.rest) > 64<<10 {
				l.take(string(l.rest[:64<<10]))
				l.rest = nil
			}
			return len(p), nil
		}
		l.take(string(l.rest[:i]))
		l.rest = l.rest[i+1:]
	}
}

func (l *lines) take(s string) {
	if l.each != nil {
		l.each(s)
	}
	if l.last = append(l.last, s); len(l.last) > 40 {
		l.last = l.last[1:]
	}
}

func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.take(string(l.rest))
		l.rest = nil
	}
}

func (l *lines) tail() []string { return l.last }

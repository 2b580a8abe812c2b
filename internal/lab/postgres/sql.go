package postgres

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// SQL runs statements in a database and returns what they print.
func (s *Server) SQL(t testing.TB, database, sql string) string {
	t.Helper()
	out, err := s.TrySQL(database, sql)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// TrySQL is SQL for statements that may fail. Calls one after the other share one psql, whose start
// costs more than most statements. A call at the same time gets a psql of its own.
func (s *Server) TrySQL(database, sql string) (string, error) {
	if s.psql.busy.TryLock() {
		defer s.psql.busy.Unlock()
		return s.psql.run(s, database, sql)
	}
	cmd := s.psqlCommand(database)
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("psql: %w", err)
	}
	return strings.TrimSpace(string(out)), err
}

// Database is the URI of one database for the superuser.
func (s *Server) Database(name string) string {
	return "postgresql://postgres@127.0.0.1:" + s.Port + "/" + name
}

func (s *Server) psqlCommand(database string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.Bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-d", s.Database(database))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// psql is a running psql that is connected to the database postgres between two calls.
type psql struct {
	busy sync.Mutex
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// sqlEnd is a line that no statement of a test prints.
const sqlEnd = "end of the statements of the test"

func (p *psql) run(s *Server, database, sql string) (string, error) {
	if p.cmd == nil {
		if err := p.start(s); err != nil {
			return "", err
		}
	}
	lines := []string{sql, ";", `\echo '` + sqlEnd + `'`, ""}
	if database != "postgres" {
		lines = []string{connect(s.Database(database)), sql, ";", connect(s.Database("postgres")),
			`\echo '` + sqlEnd + `'`, ""}
	}
	_, err := io.WriteString(p.in, strings.Join(lines, "\n"))
	var out strings.Builder
	for err == nil {
		var line string
		line, err = p.out.ReadString('\n')
		if line == sqlEnd+"\n" {
			return strings.TrimSpace(out.String()), nil
		}
		out.WriteString(line)
	}
	// It ends with a statement that fails, and with the server.
	if e := p.end(); e != nil {
		err = e
	}
	return strings.TrimSpace(out.String()), fmt.Errorf("psql: %w", err)
}

func connect(uri string) string {
	return `\connect '` + strings.ReplaceAll(uri, "'", "''") + "'"
}

func (p *psql) start(s *Server) error {
	cmd := s.psqlCommand("postgres")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.in, p.out = cmd, in, bufio.NewReader(out)
	return nil
}

// end ends the psql, if there is one. The caller holds busy.
func (p *psql) end() error {
	if p.cmd == nil {
		return nil
	}
	err := p.in.Close()
	_, e := io.Copy(io.Discard, p.out)
	err = errors.Join(err, e, p.cmd.Wait())
	p.cmd = nil
	return err
}

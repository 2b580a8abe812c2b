package postgres

import (
	"context"
	"fmt"

	"example.com/tykupgrade/backup"
)

// CheckStructure is what the kind registers.
var CheckStructure = checkStructure

// Majors are major versions of a server, and of the server and the pg_dump that made a set.
type Majors struct{ Server, Set, SetDump int }

// CheckVersions asks the programs behind run for their versions, and returns what stops a backup and
// a restore.
func CheckVersions(ctx context.Context, m Majors, run backup.Runner) (take, back error) {
	s := Source{Server: Server{Runner: run}}
	c, err := s.Server.client()
	if err != nil {
		return err, err
	}
	facts := serverFacts{Version: fmt.Sprint(m.Server, ".4"), Num: m.Server*10_000 + 4, Create: true}
	_, take = s.tools(ctx, c, facts)
	d := &Details{Server: fmt.Sprint(m.Set, ".4"), Major: m.Set, DumpMajor: m.SetDump,
		Dump: fmt.Sprint(m.SetDump, ".4")}
	return take, (&Restore{}).checkServer(ctx, &work{c: c, d: d, facts: facts}, nil)
}

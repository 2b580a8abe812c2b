package redis

import (
	"net"
	"path/filepath"

	"example.com/tykupgrade/internal/lab/port"
)

// Run starts the redis-server at program outside of a test, with its data in
// dir, which must exist. Close it with [Server.Kill]; the methods that fail a
// test are not for it. args are added as [Start] does.
func Run(program, dir string, args ...string) (*Server, error) {
	n, err := port.Free()
	if err != nil {
		return nil, err
	}
	s := &Server{program: program, Dir: dir, Addr: net.JoinHostPort("127.0.0.1", n), Port: n}
	s.args = append(s.defaults(), args...)
	if err := s.StartE(); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// defaults save nothing by themselves, and give snapshots without delay.
func (s *Server) defaults() []string {
	return []string{"--port", s.Port, "--bind", "127.0.0.1", "--dir", s.Dir, "--logfile",
		filepath.Join(s.Dir, "log"),
		"--save", "", "--repl-diskless-sync-delay", "0"}
}

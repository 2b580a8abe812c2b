package port

import (
	"net"
	"strings"
	"testing"
)

func TestAddr(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 50 {
		addr, err := Addr()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
		_, p, _ := strings.Cut(addr, ":")
		if l, err := net.Listen("unix", "@tykupgrade-port-"+p); err == nil {
			_ = l.Close()
			t.Errorf("another process can be given %s, too", addr)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
}

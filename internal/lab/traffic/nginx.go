package traffic

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/run"
)

// Nginx is a running nginx in front of servers, with the script of docs/balancers.md that takes
// them out and in.
type Nginx struct {
	Front string // its address
	dir   string
	out   bytes.Buffer
}

// StartNginx starts nginx until the test ends. addrs are the servers h1, h2 and so on.
func StartNginx(tb testing.TB, addrs ...string) *Nginx {
	tb.Helper()
	bin := lab.Program(tb, "nginx", "nginx-light")
	n := &Nginx{Front: Port(tb), dir: tb.TempDir()}
	var upstream strings.Builder
	for i, addr := range addrs {
		fmt.Fprintf(&upstream, "server %s max_fails=0; # h%d\n", addr, i+1)
	}
	for name, text := range map[string]string{
		"nginx-server":  recipe(tb),
		"upstream.conf": upstream.String(),
		"nginx.conf": fmt.Sprintf(`worker_processes 1;
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3;
	uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	upstream gateways { include upstream.conf; }
	server {
		listen %[2]s backlog=1024;
		location / { proxy_pass http://gateways; proxy_next_upstream off; }
	}
}
`, n.dir, n.Front),
	} {
		if err := run.WriteProgram(filepath.Join(n.dir, name), []byte(text), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	cmd := exec.Command(bin, "-p", n.dir, "-c", "nginx.conf", "-e", "stderr", "-g",
		"daemon off; error_log stderr; pid "+n.dir+"/nginx.pid;")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &n.out, &n.out, time.Second
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-ended
	})
	for {
		if _, err := os.Stat(filepath.Join(n.dir, "nginx.pid")); err == nil {
			return n
		}
		select {
		case <-ended:
			tb.Fatal(n.out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Command is the script's command line for drain, ready or state of a server.
func (n *Nginx) Command(verb string) []string {
	return []string{
		"env", "NGINX_UPSTREAM=" + filepath.Join(n.dir, "upstream.conf"), "NGINX_PID=" +
			filepath.Join(n.dir, "nginx.pid"),
		"NGINX_TEST=true", "sh", filepath.Join(n.dir, "nginx-server"), verb, "{server}",
	}
}

// recipe reads the script from the docs, so that they are tested.
func recipe(tb testing.TB) string {
	tb.Helper()
	// Above the test's package, since a trimmed program does not know where its files are.
	var page []byte
	err := fs.ErrNotExist
	for up := ""; errors.Is(err, fs.ErrNotExist) && len(up) < 30; up += "../" {
		page, err = os.ReadFile(up + "docs/balancers.md")
	}
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```sh\n#!/bin/sh\n# nginx-server")
	text, _, end := strings.Cut(rest, "```\n")
	if !ok || !end {
		tb.Fatal("docs/balancers.md has no script nginx-server")
	}
	return "#!/bin/sh\n# nginx-server" + text
}

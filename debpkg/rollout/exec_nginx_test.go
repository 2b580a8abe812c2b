package rollout_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/traffic"
	"example.com/tykupgrade/internal/run"
)

// nginxRecipe drives nginx, which has no runtime API, for Exec: it marks the server "down" in the
// file of its upstream and reloads. Processes from before a reload finish their requests; while
// one of them is there, a server that is out still has sessions.
//
//	nginx-server DIR drain|ready|state SERVER
const nginxRecipe = `#!/bin/sh
set -eu
dir=$1 verb=$2 server=$3
file=$dir/upstream.conf
reload() {
	"$NGINX" -p "$dir" -c nginx.conf -g "pid $dir/nginx.pid;" -t 2>/dev/null
	kill -HUP "$(cat "$dir/nginx.pid")"
}
grep -q "# $server\$" "$file" || { echo "no server $server in $file" >&2; exit 1; }
case $verb in
drain) sed "/# $server\$/s/ down;/;/; /# $server\$/s/;/ down;/" "$file" >"$file.new" ;;
ready) sed "/# $server\$/s/ down;/;/" "$file" >"$file.new" ;;
state)
	up=true drained=false
	if grep -q " down;.*# $server\$" "$file"; then up=false drained=true; fi
	old=$(ps -o args= --ppid "$(cat "$dir/nginx.pid")" | grep -c 'shutting down' || true)
	echo "{\"up\":$up,\"drained\":$drained,\"sessions\":$old,\"queue\":0}"
	exit 0 ;;
esac
if cmp -s "$file" "$file.new"; then rm "$file.new"; exit 0; fi
mv "$file.new" "$file"
reload
`

// No request of 5,000 is lost behind nginx on the way there, nor of 5,000 on the way back.
func TestExecDrivesNginx(t *testing.T) {
	t.Parallel()
	bin := lab.Program(t, "nginx", "nginx-light")
	dir, front := t.TempDir(), traffic.Port(t)
	servers := []*traffic.Server{traffic.Start(t, "h1", "old"), traffic.Start(t, "h2", "old")}
	for name, text := range map[string]string{
		"nginx-server":  nginxRecipe,
		"upstream.conf": fmt.Sprintf("server %s max_fails=0; # h1\nserver %s max_fails=0; # h2\n", servers[0].Addr, servers[1].Addr),
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
`, dir, front),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := exec.Command(bin, "-p", dir, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; error_log stderr; pid "+dir+"/nginx.pid;")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for {
		if _, err := os.Stat(filepath.Join(dir, "nginx.pid")); err == nil {
			break
		}
		if cmd.ProcessState != nil || t.Context().Err() != nil {
			t.Fatal(out.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	command := func(verb string) []string {
		return []string{"env", "NGINX=" + bin, "sh", filepath.Join(dir, "nginx-server"), dir, verb, "{server}"}
	}
	lb := rollout.Exec{
		Run:          run.Local(run.Options{}),
		DrainCommand: command("drain"), ReadyCommand: command("ready"), StateCommand: command("state"),
	}
	if err := lb.Drain(t.Context(), "h9"); err == nil {
		t.Error("a server that is not there was drained")
	}
	var hosts []rollout.Host
	for _, s := range servers {
		install := func(version string) func(context.Context) error {
			return func(context.Context) error { return s.Install(version) }
		}
		hosts = append(hosts, rollout.Host{
			Name: s.Name, Server: s.Name, Install: rollout.Step{Do: install("new"), Undo: install("old")}, Healthy: ok,
		})
	}
	w, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{
		Balancer: lb, Drain: rollout.DrainOptions{Interval: 50 * time.Millisecond}, Up: rollout.UpOptions{Interval: 20 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := rollout.Options{Journal: filepath.Join(dir, "journal")}
	for _, c := range []struct {
		version string
		call    func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)
	}{{"new", rollout.Run}, {"old", rollout.Undo}} {
		load := traffic.Run(8, front)
		_, err := c.call(t.Context(), []rollout.Wave{w}, o)
		sent, failed, why := load.End(5000)
		if err != nil || failed > 0 {
			t.Errorf("to %s: %d of %d requests failed, the first by %v; %v\n%s", c.version, failed, sent, why, err, out.String())
		}
		for _, s := range servers {
			if s.Version() != c.version {
				t.Errorf("%s has %s, want %s", s.Name, s.Version(), c.version)
			}
			if st, err := lb.State(t.Context(), s.Name); err != nil || !st.Up || st.Drained {
				t.Errorf("%s is %+v, %v", s.Name, st, err)
			}
		}
		t.Logf("to %s: %d of %d requests failed", c.version, failed, sent)
	}
}

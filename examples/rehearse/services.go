package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/port"
	"example.com/tykupgrade/pluginbuild"
)

// service is a program of a package as a process. There is no systemd in a
// private root, so the rehearsal restarts it itself.
type service struct {
	component string
	program   string
	conf      string
	addr      string
	log       string

	cmd  *exec.Cmd
	done chan struct{}
	end  error
}

// start runs the program that is installed now.
func (s *service) start(env ...string) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	s.cmd = exec.Command(s.program, "--conf", s.conf)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = filepath.Dir(s.program), log, log
	s.cmd.Env = append(os.Environ(), env...)
	// An interrupt at the terminal reaches only the rehearsal, which stops the service in order. If
	// the rehearsal is killed, the service ends too.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() {
		s.end = cmd.Wait()
		close(done)
	}()
	return nil
}

// stop ends the process, if there is one.
func (s *service) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// check tells health of the process, as a check of a unit would.
func (s *service) check() health.Check {
	return health.Check{Name: "process", Run: func(context.Context) (health.Finding, error) {
		if s.cmd == nil {
			return health.Finding{}, errors.New("not started")
		}
		select {
		case <-s.done:
			return health.Finding{}, fmt.Errorf("the process has ended: %v: %s", s.end, s.lastLine())
		default:
			return health.Finding{Instance: "pid " + strconv.Itoa(s.cmd.Process.Pid)}, nil
		}
	}}
}

func (s *service) lastLine() string {
	data, _ := os.ReadFile(s.log)
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(lines[len(lines)-1])
}

const servicesNote = "the services, and the header that stands for the plugin; the probes are real"

// startServices starts the three programs of the old version and awaits them.
func (r *rehearsal) startServices(ctx context.Context, s *Step) error {
	s.Stub = "small programs that answer as Tyk's do, started by the rehearsal instead of " +
		"systemd; the gateway loads no plugin, but shows its header where the bundle has a build for " +
		"its version"
	for _, c := range components {
		addr, err := port.Addr()
		if err != nil {
			return err
		}
		r.ports = append(r.ports, addr)
		sv := &service{component: c.name, addr: addr, program: r.stack.path(c.program),
			conf: r.stack.path(c.conf), log: filepath.Join(r.dir, c.name+".log")}
		r.services[c.name] = sv
		if err := r.stack.configure(c, addr, r.store.redisAddr()); err != nil {
			return err
		}
		r.later(func(context.Context) error { sv.stop(); return nil })
		if err := r.restart(c.name, r.o.from.String()); err != nil {
			return err
		}
	}
	rep, err := r.gate(ctx, r.o.from.String(), 0, "dashboard", "gateway", "pump")
	if err != nil {
		return err
	}
	r.sayHealth(s, rep)
	return nil
}

// restart starts the installed program. A stub gateway shows the plugin's header only if the bundle
// has a build for its version.
func (r *rehearsal) restart(component, version string) error {
	sv := r.services[component]
	sv.stop()
	var env []string
	if component == "gateway" {
		state := "broken"
		if r.plugin.loads[version] {
			state = "loaded"
		}
		env = append(env, "TYKD_PLUGIN="+state)
	}
	return sv.start(env...)
}

// gate waits for components of the given version, and for the plugin's header in the gateway's
// answers. failures ends the wait early; 0: only the deadline does.
func (r *rehearsal) gate(ctx context.Context, version string, failures int,
	names ...string) (health.Report, error) {
	want, err := pluginbuild.ParseVersion(version)
	if err != nil {
		return health.Report{}, err
	}
	var probes []health.Probe
	for _, name := range names {
		sv := r.services[name]
		base := "http://" + sv.addr
		var all []health.Probe
		switch name {
		case "dashboard":
			all = []health.Probe{health.Dashboard(base)}
		case "gateway":
			all = []health.Probe{health.Gateway(base, want), health.Plugin(base+"/orders/1",
				health.Expect{Header: map[string]string{"Foo": "Bar"}})}
		case "pump":
			all = []health.Probe{health.Pump(base)}
		}
		for i := range all {
			all[i].Name = name
			if all[i].Kind == health.KindPlugin {
				all[i].Name = "plugin"
			}
			all[i].Checks = append(all[i].Checks, sv.check())
			if check, ok := r.stack.check(name); ok && all[i].Kind != health.KindPlugin {
				all[i].Checks = append(all[i].Checks, check)
				if name != "pump" { // it has versions of its own
					all[i].Want = want
				}
			}
		}
		probes = append(probes, all...)
	}
	return health.Wait(ctx, health.Policy{SuccessThreshold: 2, FailureThreshold: failures,
		Interval: 200 * time.Millisecond, MaxInterval: time.Second,
		TryTimeout: time.Minute, Deadline: 5 * time.Minute, // a busy machine is slow, not broken
		Event: func(e health.Event) {
			text := string(e.Result.Status)
			if e.Result.Error != "" {
				text += ": " + e.Result.Error
			}
			r.print.event("%s try %d: %s", e.Result.Probe, e.Try, text)
		}}, probes...)
}

func (r *rehearsal) sayHealth(s *Step, rep health.Report) {
	var all []string
	for _, p := range rep.Probes {
		text := p.Probe + " " + string(p.Status)
		if p.Version != "" {
			text += " " + p.Version
		}
		all = append(all, text)
	}
	s.say("%s", strings.Join(all, ", "))
}

// gateAll is the wash-up health check of all three.
func (r *rehearsal) gateAll(ctx context.Context, s *Step) error {
	s.Stub = servicesNote
	rep, err := r.gate(ctx, r.o.to.String(), 0, "dashboard", "gateway", "pump")
	if err != nil {
		return err
	}
	r.sayHealth(s, rep)
	s.say("an API request shows the plugin's header, Foo: Bar")
	return nil
}

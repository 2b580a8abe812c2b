package debpkgtest

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"example.com/tykupgrade/debpkg"
)

// exitError is the exit code of a command.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// ExitCode is what debpkg looks at.
func (e exitError) ExitCode() int { return int(e) }

// answer is what a command prints, and its exit code.
type answer struct {
	out, err string
	code     int
}

// Run is the host's debpkg.Runner. The error for an unknown command names it.
func (h *Host) Run(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var in []byte
	if stdin != nil {
		var err error
		if in, err = io.ReadAll(stdin); err != nil {
			return err
		}
	}
	h.mu.Lock()
	a, err := h.answer(argv, string(in))
	if h.disconnect > 0 {
		h.disconnect--
		if h.disconnect == 0 && h.lost > 0 {
			h.lost, h.disconnect = h.lost-1, 1
			a, err = answer{}, &debpkg.Error{Op: "run", Object: "on " + h.name, Kind: debpkg.ErrConnection,
				Detail: "programmed by the test", Next: "call again", Retry: true}
		}
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	for _, s := range []struct {
		w    io.Writer
		text string
	}{{stdout, a.out}, {stderr, a.err}} {
		if s.w != nil {
			if _, err := io.WriteString(s.w, s.text); err != nil {
				return err
			}
		}
	}
	if a.code != 0 {
		return exitError(a.code)
	}
	return nil
}

func (h *Host) answer(argv []string, stdin string) (answer, error) {
	for len(argv) > 0 && (argv[0] == "env" || argv[0] == "sudo" || argv[0] == "-n" ||
		argv[0] == "--" || strings.Contains(argv[0], "=")) {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return answer{}, fmt.Errorf("debpkgtest: no command")
	}
	if argv[0] == "sh" && len(argv) > 3 {
		name, args := strings.TrimPrefix(argv[3], "debpkg-"), argv[4:]
		if f, ok := scripts[name]; ok {
			return f(h, args, stdin), nil
		}
		if name == "fleet-notes" { // no cached bundle is aside
			return answer{}, nil
		}
		return answer{}, fmt.Errorf("debpkgtest: the host does not know the script %q", name)
	}
	switch argv[0] {
	case "apt-get":
		return h.aptGet(argv[1:]), nil
	case "apt-mark":
		for _, n := range argv[2:] {
			if p := h.installed[n]; p != nil && argv[1] == "hold" {
				p.want = "hold"
			}
		}
		return answer{}, nil
	case "systemctl":
		return h.systemctl(argv[1:]), nil
	case "journalctl":
		return answer{out: "the program said nothing that this host knows\n"}, nil
	}
	return answer{}, fmt.Errorf("debpkgtest: the host does not know the command %q", strings.Join(argv,
		" "))
}

// wanted reads what follows "install --" on an apt-get command line.
func (h *Host) wanted(argv []string) (install []Package, remove []string, a answer) {
	i := slices.Index(argv, "--")
	for _, arg := range argv[i+1:] {
		name, version, exact := strings.Cut(arg, "=")
		switch {
		case path.IsAbs(arg):
			p, ok := h.debs[arg]
			if !ok {
				return nil, nil, answer{err: "E: Unsupported file " + arg + " given on commandline\n",
					code: 100}
			}
			install = append(install, p)
		case exact:
			known := false
			j := slices.IndexFunc(h.offers, func(p Package) bool {
				known = known || p.Name == name
				return p.Name == name && p.Version == version
			})
			switch {
			case j >= 0:
				install = append(install, h.offers[j])
			case known || h.installed[name] != nil:
				if now := h.installed[name]; now != nil && now.Version == version && now.status == "installed" {
					continue
				}
				return nil, nil, answer{err: fmt.Sprintf("E: Version '%s' for '%s' was not found\n", version,
					name), code: 100}
			default:
				return nil, nil, answer{err: "E: Unable to locate package " + name + "\n", code: 100}
			}
		case strings.HasSuffix(arg, "-"):
			remove = append(remove, strings.TrimSuffix(arg, "-"))
		}
	}
	install = slices.DeleteFunc(install, func(p Package) bool {
		now := h.installed[p.Name]
		return now != nil && now.Version == p.Version && now.status == "installed"
	})
	return install, remove, answer{}
}

func (h *Host) aptGet(argv []string) answer {
	if h.lock != "" && !slices.Contains(argv, "-s") && !slices.Contains(argv, "--print-uris") {
		return answer{err: "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by " +
			"process 42 (" + h.lock + ")\n", code: 100}
	}
	if argv[len(argv)-1] == "update" {
		h.note("update")
		if h.update != "" {
			return answer{err: h.update, code: 100}
		}
		return answer{}
	}
	install, remove, bad := h.wanted(argv)
	if bad.code != 0 || slices.Contains(argv, "--print-uris") || slices.Contains(argv,
		"--download-only") {
		return bad
	}
	var out strings.Builder
	if slices.Contains(argv, "-s") {
		for _, p := range install {
			old := ""
			if now := h.installed[p.Name]; now != nil && now.status != "config-files" {
				old = " [" + now.Version + "]"
			}
			fmt.Fprintf(&out, "Inst %s%s (%s stable [amd64])\n", p.Name, old, p.Version)
		}
		for _, n := range remove {
			if now := h.installed[n]; now != nil && now.status != "config-files" {
				fmt.Fprintf(&out, "Remv %s [%s]\n", n, now.Version)
			}
		}
		return answer{out: out.String()}
	}
	return answer{err: "E: run apt-get through a job\n", code: 100}
}

// install carries an apt-get line out as a job does.
func (h *Host) install(argv []string) *run {
	r := &run{}
	if i := slices.Index(argv, "dpkg"); i >= 0 { // repair
		for _, p := range h.installed {
			if p.status == "half-configured" || p.status == "unpacked" {
				h.note("configure %s", p.Name)
				if p.PostinstExit != 0 {
					r.fail(p.Package)
				} else {
					p.status = "installed"
				}
			}
		}
		return r
	}
	install, remove, bad := h.wanted(argv)
	if bad.code != 0 {
		r.errs, r.code = []byte(bad.err), bad.code
		return r
	}
	for _, n := range remove {
		h.note("remove %s", n)
		h.remove(n)
	}
	for i, p := range install {
		h.note("install %s=%s", p.Name, p.Version)
		h.unpack(p)
		r.out = fmt.Appendf(r.out, "Setting up %s (%s) ...\n", p.Name, p.Version)
		r.status = fmt.Appendf(r.status, "pmstatus:%s:%d:Installed %s\n", p.Name, (i+1)*100/len(install),
			p.Name)
		if p.PostinstExit != 0 {
			r.fail(p)
		}
	}
	return r
}

func (r *run) fail(p Package) {
	r.errs = fmt.Appendf(r.errs, "dpkg: error processing package %[1]s (--configure):\n installed "+
		"%[1]s package post-installation script subprocess returned error exit status %[2]d\nE: "+
		"Sub-process /usr/bin/dpkg returned an error code (1)\n", p.Name, p.PostinstExit)
	r.code = 100
}

func (h *Host) systemctl(argv []string) answer {
	if i := slices.Index(argv, "--"); i >= 0 && argv[0] == "show" {
		return answer{out: h.show(argv[i+1:])}
	}
	return answer{}
}

// show prints units as systemctl show does.
func (h *Host) show(names []string) string {
	var b strings.Builder
	for _, n := range names {
		u := h.units[n]
		state := []string{"not-found", "inactive", "dead"}
		if u == nil {
			u = &unit{}
		} else if state = []string{"loaded", "failed", "failed"}; u.active {
			state = []string{"loaded", "active", "running"}
		}
		fmt.Fprintf(&b, "Id=%s\nLoadState=%s\nActiveState=%s\nSubState=%s\nMainPID=%d\nInvocationID=%d\n\n", n, state[0], state[1], state[2], 1000+u.started, u.started)
	}
	return b.String()
}

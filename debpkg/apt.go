package debpkg

import (
	"context"
	"errors"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/redact"
)

// aptError classifies a failed run of apt or dpkg. A lost connection is not apt's failure.
func aptError(op task, out said, err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	return classify(op, out, err)
}

// install is an apt-get command line that changes packages.
type install struct {
	args      []string // what follows "install"
	downgrade bool     // allow downgrades
	held      bool     // allow changes of held packages
	removal   bool     // allow removals
}

// aptGet returns the command line with further flags. It allows only what the plan contains, so
// that a run fails if apt's plan has changed.
func (h *Host) aptGet(in install, flags ...string) []string {
	argv := []string{"apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"}
	if h.o.NewConffiles {
		argv = append(argv, "-o", "Dpkg::Options::=--force-confnew")
	} else {
		// confdef takes dpkg's default where it has one; without confold dpkg
		// asks for the rest, and DEBIAN_FRONTEND does not prevent that.
		argv = append(argv, "-o", "Dpkg::Options::=--force-confdef", "-o",
			"Dpkg::Options::=--force-confold")
	}
	if in.downgrade {
		argv = append(argv, "--allow-downgrades")
	}
	if in.held {
		argv = append(argv, "--allow-change-held-packages")
	}
	if !in.removal {
		argv = append(argv, "--no-remove")
	}
	argv = append(argv, flags...)
	return append(append(argv, "install", "--"), in.args...)
}

// apt runs an apt-get install line and returns its whole output.
func (h *Host) apt(ctx context.Context, op task, in install, flags ...string) (string, error) {
	out, err := h.both(ctx, h.aptGet(in, flags...)...)
	if err == nil {
		return out.out, nil
	}
	if ctx.Err() != nil {
		return "", op.wrap(err)
	}
	return "", aptError(op, out, err)
}

// simulation is the result of apt-get -s.
type simulation struct {
	inst []simulated
	conf []simulated
	remv []simulated
}

type simulated struct {
	name     string
	old, new Version
	origin   string
}

// simulate asks apt what it would do. The simulation allows everything, so that a refusal can state
// its reason.
func (h *Host) simulate(ctx context.Context, op task, args []string) (simulation, error) {
	out, err := h.apt(ctx, op, install{args: args, downgrade: true, held: true, removal: true}, "-s")
	if err != nil {
		return simulation{}, err
	}
	return parseSimulation(out), nil
}

var (
	instLine = lazyregexp.New(
		`^(Inst|Conf) (\S+)(?: \[([^\]]*)\])? \((\S+)(.*?)(?: \[[^\]]*\])?\)`)
	remvLine = lazyregexp.New(`^(?:Remv|Purg) (\S+)(?: \[([^\]]*)\])?`)
)

func parseSimulation(text string) simulation {
	var s simulation
	for line := range strings.Lines(text) {
		if m := instLine.FindStringSubmatch(line); m != nil {
			one := simulated{name: m[2], old: Version{m[3]}, new: Version{m[4]},
				origin: strings.TrimSpace(m[5])}
			if m[1] == "Inst" {
				s.inst = append(s.inst, one)
			} else {
				s.conf = append(s.conf, one)
			}
		} else if m := remvLine.FindStringSubmatch(line); m != nil {
			s.remv = append(s.remv, simulated{name: m[1], old: Version{m[2]}})
		}
	}
	return s
}

// Download is one file that apt would fetch.
type Download struct {
	URI  string // credentials removed
	File string // its name in the cache
	Size int64
}

var uriLine = lazyregexp.New(`^'([^']*)' (\S+) (\d+)(?: (\S*))?`)

// parseURIs reads apt-get --print-uris.
func parseURIs(text string) []Download {
	var list []Download
	for line := range strings.Lines(text) {
		if m := uriLine.FindStringSubmatch(line); m != nil {
			list = append(list, Download{URI: redact.Text(m[1]), File: m[2], Size: number64(m[3])})
		}
	}
	return list
}

// debName returns the name that apt gives a .deb file.
func debName(pkg string, v Version, arch string) string {
	pkg, _, _ = strings.Cut(pkg, ":")
	return pkg + "_" + strings.ReplaceAll(v.text, ":", "%3a") + "_" + arch + ".deb"
}

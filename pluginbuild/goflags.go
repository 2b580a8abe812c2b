package pluginbuild

import (
	"fmt"
	"os"
	"strings"

	"example.com/tykupgrade/internal/goenv"
)

// goEnv returns the variables that Prepare sets for its commands. They inherit all others, such as
// GOPROXY and those of `go env -w`. GOFLAGS is restricted: the go command stops at an unknown flag
// (Go 1.16 at -buildvcs), and -mod=vendor makes `go get` fail. -modfile and -overlay redirect the
// commands to files that Prepare does not guard.
func (o PrepareOptions) goEnv() ([]string, error) {
	s, err := goenv.Read(append(os.Environ(), o.Env...))
	if err != nil {
		return nil, fmt.Errorf("read the go command's settings: %w", err)
	}
	// Not empty: an empty variable does not override the file.
	keep := " "
	for _, f := range strings.Fields(s.Get("GOFLAGS")) {
		name, _, _ := strings.Cut(strings.TrimLeft(strings.Trim(f, `'"`), "-"), "=")
		switch name {
		case "modfile", "overlay":
			return nil, &Error{Op: "check GOFLAGS", Kind: ErrGoFlags, Err: fmt.Errorf("-%s", name),
				ExitCode: -1,
				Next:     "unset it (go env -u GOFLAGS) and try again"}
		case "modcacherw":
			keep = f
		default:
			o.log().Info("flag of GOFLAGS is not used", "flag", f)
		}
	}
	return []string{"GOFLAGS=" + keep, "GO111MODULE=on", "GOWORK=off"}, nil
}

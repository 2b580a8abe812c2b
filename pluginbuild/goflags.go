package pluginbuild

import (
	"fmt"
	"os"
	"strings"

	"example.com/tykupgrade/internal/goenv"
)

// goEnv returns what Prepare sets for its commands, on top of the caller's
// environment and of what `go env -w` wrote: GOPROXY, GOPRIVATE and the like are the
// caller's. GOFLAGS is not: a go command refuses to start at a flag that it does not
// know (Go 1.16 at -buildvcs), -mod=vendor would make `go get` fail, and -modfile and
// -overlay would lead the commands to files that Prepare does not guard.
func (o PrepareOptions) goEnv() ([]string, error) {
	s, err := goenv.Read(append(os.Environ(), o.Env...))
	if err != nil {
		return nil, fmt.Errorf("read the go command's settings: %w", err)
	}
	// Not empty: an empty variable does not hide what the file says.
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

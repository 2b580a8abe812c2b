package debpkg

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Versions returns the versions of installed packages by name. The packages match the given names
// or dpkg patterns ("tyk-*"). Unknown names are left out. It runs only dpkg-query, so it needs
// neither root nor apt. [Host.Packages] returns more.
func (h *Host) Versions(ctx context.Context, names ...string) (map[string]string, error) {
	versions := map[string]string{}
	if len(names) == 0 {
		return versions, h.err
	}
	out, errOut, err := h.raw(ctx, nil, append([]string{"env", "LC_ALL=C", "dpkg-query",
		"--admindir=" + h.path("/var/lib/dpkg"), "-W", "-f",
		"${db:Status-Status} ${Package} ${Version}\n", "--"}, names...)...)
	var exit interface{ ExitCode() int }
	if unknown := errors.As(err, &exit) && exit.ExitCode() == 1; err != nil && !unknown {
		return nil, task{"read", "the versions of packages"}.wrap(explain(ctx, err, errOut))
	}
	for line := range strings.Lines(out) {
		var p Package
		if n, _ := fmt.Sscan(line, &p.Status, &p.Name, &p.Version.text); n == 3 && p.Installed() {
			versions[p.Name] = p.Version.text
		}
	}
	return versions, nil
}

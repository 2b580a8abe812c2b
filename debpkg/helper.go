package debpkg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/run"
)

// HelperPath and HelperSudoers are the paths of [InstallHelper]'s files on a host.
const (
	HelperPath    = "/usr/local/sbin/tykupgrade-helper"
	HelperSudoers = "/etc/sudoers.d/tykupgrade"
)

// HelperScript returns the program that [InstallHelper] installs: a shell script that root owns. It
// carries out the calls of a [Host] on the system itself, without Options.Root, AptConfig or
// StateDir. It refuses everything else:
//
//   - packages that are not Tyk's by name, and their dependencies where they would be saved
//     or reverted
//   - .deb files of the caller, because their scripts would run as root
//   - options of apt, files, units and directories other than those that this package uses
//   - the environment of the caller, and scripts other than its own
//
// A user who may call it can install, downgrade, remove, hold and pin the Tyk packages of the
// host's signed sources. He can also restart their units, and read and restore their configuration.
func HelperScript() string {
	body := helperBody()
	sum := sha256.Sum256([]byte(body))
	return "#!/bin/sh\n# tykupgrade: what a user may do as root through sudo. It takes a digest of " +
		"itself,\n# a call of package debpkg, and its arguments.\nset -f\nexport LC_ALL=C " +
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\ndigest=" +
		hex.EncodeToString(sum[:8]) + "\n" + body
}

func helperBody() string {
	var b strings.Builder
	one := func(name, text string) {
		fmt.Fprintf(&b, "%s) printf %%s '%s' ;;\n", name, strings.ReplaceAll(text, "'", `'\''`))
	}
	fmt.Fprintf(&b, "suffixes='%s' properties='%s'\n", strings.Join(besideSuffixes, " "), unitProperties)
	b.WriteString(safeFunc + helperChecks + "text() { case $1 in\n")
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		one(name, scripts[name])
	}
	one("job", jobScript)
	b.WriteString("esac; }\n" + helperMain)
	return b.String()
}

// SudoersFor returns the sudoers file that lets only this user call the helper.
func SudoersFor(user string) (string, error) {
	if !userName.MatchString(user) {
		return "", task{"install", "the helper"}.fail(Error{Detail: fmt.Sprintf("%q is not a user name",
			user), Next: "use the name of the user who logs in, such as deploy"})
	}
	return fmt.Sprintf("# Written by tykupgrade: %[1]s may upgrade Tyk's packages as root, and nothing "+
		"else.\nDefaults!%[2]s env_reset, !requiretty, !setenv\n%[1]s ALL=(root) NOPASSWD: %[2]s\n", user,
		HelperPath), nil
}

var userName = lazyregexp.New(`^[a-z_][a-z0-9_-]{0,31}$`)

// InstallHelper installs the helper and its sudoers file for user. r must run commands as root, for
// example through [Sudo]. It replaces the files of an earlier version and can be repeated. visudo
// checks the sudoers file before it takes effect. After an error the earlier files stay, except
// that the helper may be new. Without a sudoers file it gives nobody permissions.
func InstallHelper(ctx context.Context, r Runner, user string) error {
	op := task{"install", "the helper " + HelperPath}
	rules, err := SudoersFor(user)
	if err != nil {
		return err
	}
	text := HelperScript()
	h := New(r, Options{})
	in := fmt.Sprintf("%d\n%s%s", len(text), text, rules)
	if _, err := h.script(ctx, bytes.NewReader([]byte(in)), "install-helper", HelperPath, HelperSudoers,
		user, fmt.Sprint(len(rules))); err != nil {
		if exitCode(err) == 79 {
			return op.fail(Error{Kind: ErrNotRoot, Err: err, Detail: err.Error(),
				Next: "use a Runner that runs as root, or wrap it in Sudo"})
		}
		return op.wrap(unsafe(op, err))
	}
	return nil
}

// installHelperScript: $1 helper, $2 sudoers file, $3 user, $4 length of the sudoers file;
// standard input holds the helper's length, the helper, and the sudoers file. Both arrive
// whole before either counts, and the helper comes first.
const installHelperScript = safeFunc + `set -e; umask 077
id "$3" >/dev/null
[ "$(id -u)" = 0 ] || { echo "only root can" >&2; exit 79; }
for f in "$1" "$2"; do safe "${f%/*}"; [ ! -L "$f" ] || { echo "$f is a link" >&2; exit 78; }; done
command -v visudo >/dev/null || { echo "sudo is not installed" >&2; exit 1; }
trap 'rm -f "$1.new" "$2.new~"' EXIT
read -r n
head -c "$n" >"$1.new"; cat >"$2.new~"
[ "$(wc -c <"$1.new")" -eq "$n" ] && [ "$(wc -c <"$2.new~")" -eq "$4" ] || { echo "less than $n and $4 bytes arrived" >&2; exit 1; }
sh -n "$1.new"
visudo -c -q -f "$2.new~" >&2
chmod 755 "$1.new"; chmod 440 "$2.new~"
sync "$1.new" "$2.new~"
mv -T "$1.new" "$1"
mv -T "$2.new~" "$2"`

// Helper returns a Runner that runs the commands of a [Host] through sudo and the helper of
// [InstallHelper]. The user needs no other permission. r logs in as that user. The helper refuses
// all other commands, such as those of a backup. The error is an [ErrHelper] if the helper refuses
// a call, has another version, or is not installed.
func Helper(r Runner) Runner {
	sum := sha256.Sum256([]byte(helperBody()))
	digest := hex.EncodeToString(sum[:8])
	sudo := Sudo(r)
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		call, err := helperCall(argv)
		if err != nil {
			return err
		}
		var tail run.Tail
		errOut := io.Writer(&tail)
		if stderr != nil {
			errOut = io.MultiWriter(stderr, &tail)
		}
		err = sudo(ctx, append([]string{HelperPath, digest}, call...), stdin, stdout, errOut)
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrConnection) {
			return err
		}
		text := helperRefusal.FindString(tail.String())
		e := &Error{Op: "run", Object: call[0] + " through " + HelperPath, Kind: ErrHelper,
			Detail: tidy(strings.TrimPrefix(text, "tykupgrade-helper: ")), Err: err}
		switch {
		case strings.Contains(tail.String(), HelperPath+": command not found"),
			exitCode(err) == 76 && text != "":
			e.Detail = "it is not installed, or has another version"
			e.Next = "call InstallHelper as root"
		case exitCode(err) == 77 && text != "":
			e.Next = "use a user who may run all commands through sudo"
		default:
			return err
		}
		return e
	}
}

var helperRefusal = lazyregexp.New(`(?m)^tykupgrade-helper: .*$`)

// helperCall turns a command of a Host into a call of the helper. The helper sets the environment
// itself.
func helperCall(argv []string) ([]string, error) {
	rest := argv
	if len(rest) > 0 && rest[0] == "env" {
		for rest = rest[1:]; len(rest) > 0 && strings.Contains(rest[0], "="); rest = rest[1:] {
			if strings.HasPrefix(rest[0], "APT_CONFIG=") {
				return nil, &Error{Op: "run", Object: "through " + HelperPath, Kind: ErrHelper,
					Detail: "it works on the system itself", Next: "leave Options.AptConfig empty"}
			}
		}
	}
	switch {
	case len(rest) > 3 && rest[0] == "sh" && rest[1] == "-c" && strings.HasPrefix(rest[3], scriptName) &&
		scripts[strings.TrimPrefix(rest[3], scriptName)] == rest[2]:
		call := append([]string{strings.TrimPrefix(rest[3], scriptName)}, rest[4:]...)
		if call[0] == "start" && len(call) > 10 {
			// It does not take the environment of the job either.
			at := 10
			for at < len(call) && (call[at] == "env" || strings.Contains(call[at], "=")) {
				at++
			}
			call = slices.Delete(call, 10, at)
		}
		return call, nil
	case len(rest) > 0 && !strings.Contains(rest[0], "/") && rest[0] != "sh":
		return rest, nil
	}
	return nil, &Error{Op: "run", Object: "through " + HelperPath, Kind: ErrHelper,
		Detail: "it is not a command of debpkg", Next: "run it with a user who may run all commands " +
			"through sudo"}
}

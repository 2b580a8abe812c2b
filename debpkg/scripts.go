package debpkg

// scripts are all POSIX shell scripts that run on a host, by name. The helper for sudo accepts no
// others.
var scripts = map[string]string{
	"candidates":     candidatesScript,
	"changes":        changesScript,
	"check-files":    `cd -- "$1" && cat files.[0-9]*.tar.gz files.tar.gz 2>/dev/null | sha256sum`,
	"debs":           debsScript,
	"discard":        `rm -rf "$1"`,
	"follow":         followScript,
	"forget":         forgetScript,
	"history":        historyScript,
	"install-helper": installHelperScript,
	"keys":           keysScript,
	"locks":          lockFunc + `locks "$@"`,
	"log":            `cd -- "$1" && tail -c 1000000 log && printf '\034' && { [ ! -e errors ] || tail -c 1000000 errors; }`,
	"move":           `mv -T "$1" "$2"`,
	"offered":        offeredScript,
	"offers":         offersScript,
	"packages":       packagesScript,
	"prepare":        prepareScript,
	"reset-failed":   `systemctl reset-failed -- "$@" 2>/dev/null; true`,
	"restart":        `systemctl daemon-reload && { systemctl reset-failed -- "$@" 2>/dev/null; systemctl restart -- "$@"; }`,
	"revert-files":   revertFilesScript,
	"save-files":     saveFilesScript,
	"save-packages":  saveScript,
	"start":          startScript,
	"state": safeFunc + lookFunc + `s=$(look "$1")
if [ "$s" = dead ]; then s=$(look "$1"); fi
echo "$s"
[ "$s" = none ] || { safe "$1" && { [ ! -e "$1/change.json" ] || cat "$1/change.json"; }; }`,
	"survey": surveyScript,
	"upload": uploadScript,
	"watch":  watchScript,
	"write": `set -e; umask 077; read -r n; cat >"$1.tmp"
if [ "$(wc -c <"$1.tmp")" -ne "$n" ]; then rm "$1.tmp"; echo "less than $n bytes arrived" >&2; exit 1; fi
sync "$1.tmp"; mv -T "$1.tmp" "$1"`,
}

// script returns the command line of a script, without its arguments. $0 is its name, by which
// package debpkgtest and the helper identify it.
func script(name string) []string {
	return []string{"sh", "-c", scripts[name], scriptName + name}
}

const scriptName = "debpkg-"

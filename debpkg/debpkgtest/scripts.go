package debpkgtest

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// scripts answers debpkg's scripts by their names. The formats are debpkg's;
// TestLikeApt holds this host to the real apt and dpkg.
var scripts map[string]func(h *Host, args []string, stdin string) answer

func init() {
	nothing := func(*Host, []string, string) answer { return answer{} }
	scripts = map[string]func(*Host, []string, string) answer{
		"survey": (*Host).survey, "packages": (*Host).packages, "offers": (*Host).sources, "offered": (*Host).offered,
		"candidates": (*Host).candidates, "debs": (*Host).readDebs,
		"locks": (*Host).locks, "state": (*Host).state, "prepare": (*Host).prepare, "discard": nothing,
		"write":         (*Host).write,
		"save-packages": (*Host).savePackages, "save-files": (*Host).saveFiles,
		"check-files": (*Host).checkFiles, "revert-files": (*Host).revertFiles,
		"start": (*Host).start, "follow": (*Host).follow, "log": (*Host).log, "reset-failed": nothing,
		"forget": (*Host).forget, "changes": (*Host).changes,
		"restart": (*Host).restart, "watch": (*Host).watch, "history": (*Host).aptHistory,
	}
}

const (
	part   = "\x1c" // between the parts of an answer
	within = "\x1d" // between those of one package
)

func sum(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }

func digest(p Package) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(p.Name+"="+
		p.Version)))
}

func deb(p Package) string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_amd64.deb"
}

func (p *installed) line(name string) string {
	return fmt.Sprintf("%s\tamd64\t%s\t%s\t%s\tok\n", name, p.Version, p.want, p.status)
}

func (h *Host) survey(args []string, _ string) answer {
	var broken, packages, sums, digests, auto, units strings.Builder
	var names []string
	for _, name := range slices.Sorted(maps.Keys(h.installed)) {
		p := h.installed[name]
		if p.status == "half-configured" || p.status == "unpacked" {
			broken.WriteString(p.line(name))
		}
		if !slices.ContainsFunc(args[2:], func(pattern string) bool {
			ok, _ := path.Match(pattern,
				name)
			return ok
		}) {
			continue
		}
		packages.WriteString(p.line(name))
		for _, f := range slices.Sorted(maps.Keys(p.Conffiles)) {
			fmt.Fprintf(&packages, " %s %s\n", f, sum(p.Conffiles[f]))
			if content, ok := h.files[f]; ok {
				fmt.Fprintf(&sums, "there\t%s\n", f)
				fmt.Fprintf(&digests, "%s  %s\x00", sum(content), f)
			} else {
				fmt.Fprintf(&sums, "absent\t%s\n", f)
			}
		}
		packages.WriteString("\n")
		if p.auto {
			auto.WriteString(name + ":amd64\n")
		}
		if p.Unit != "" && p.status != "config-files" {
			fmt.Fprintf(&units, "%s:amd64\t%s\n", name, p.Unit)
			names = append(names, p.Unit)
		}
	}
	return answer{out: strings.Join([]string{
		h.held(), "ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian GNU/Linux 12 " +
			"(bookworm)\"\n",
		"fake-" + h.name + "\n", h.name + "\n",
		"Dir /\nDir::State var/lib/apt\nDir::State::extended_states extended_states\nDir::Etc etc/apt\nDir::Etc::preferencesparts preferences.d\nDir::Cache var/cache/apt\nDir::Cache::archives archives/\nDir::Log " +
			"var/log/apt\nDir::Log::History history.log\n",
		strings.Repeat("1\n", 3) + strings.Repeat("2621440 4096\n", 3),
		"yes\n", "", packages.String(), sums.String() + within + digests.String(),
		auto.String() + within + "apt 2.6.1 amd64\ndpkg 1.21.22 amd64\n" + within + broken.String(), units.String(),
		h.show(names),
	}, part)}
}

// packages is the end of the survey.
func (h *Host) packages(args []string, stdin string) answer {
	parts := strings.Split(h.survey(args, stdin).out, part)
	parts = parts[len(parts)-7:]
	parts[4], _, _ = strings.Cut(parts[4], within)
	return answer{out: strings.Join(parts, part)}
}

func (h *Host) held() string {
	if h.lock == "" {
		return ""
	}
	return "/var/lib/dpkg/lock-frontend\t42\t" + h.lock + "\n"
}

func (h *Host) locks([]string, string) answer { return answer{out: h.held()} }

func (h *Host) madison(names []string) string {
	var b strings.Builder
	for _, p := range h.offers {
		if slices.Contains(names, p.Name) {
			fmt.Fprintf(&b, "%s | %s | http://fake stable/main amd64 Packages\n", p.Name, p.Version)
		}
	}
	return b.String()
}

func (h *Host) sources(args []string, _ string) answer {
	return answer{out: part + "/etc/apt/sources.list.d/fake.list\ndeb http://fake stable main\n" +
		within + h.madison(args[1:])}
}

func (h *Host) offered(args []string, _ string) answer {
	i := slices.Index(args, "--")
	j := i + 1 + slices.Index(args[i+1:], "--")
	var show, policy strings.Builder
	for _, one := range args[1:i] {
		name, version, _ := strings.Cut(one, "=")
		p := Package{Name: name, Version: version}
		fmt.Fprintf(&show, "Package: %s\nVersion: %s\nArchitecture: amd64\nInstalled-Size: "+
			"1\nFilename: %s\nSize: 1024\nSHA256: %s\n\n", name, version, deb(p), digest(p))
	}
	for _, name := range args[i+1 : j] {
		fmt.Fprintf(&policy, "%s:\n  Version table:\n", name)
		for _, p := range h.offers {
			if p.Name == name {
				fmt.Fprintf(&policy, "     %s 500\n        500 http://fake stable/main amd64 Packages\n", p.Version)
			}
		}
	}
	return answer{out: show.String() + part + policy.String() + part}
}

// candidates describes the .deb files, which every version in the source has.
func (h *Host) candidates(args []string, _ string) answer {
	var b strings.Builder
	for i := 1; i+1 < len(args); i += 2 {
		p, ok := h.debs[args[i+1]]
		for _, o := range h.offers {
			if !ok && path.Base(args[i+1]) == deb(o) {
				p, ok = o, true
			}
		}
		if !ok {
			return answer{err: args[i+1] + ": No such file or directory\n", code: 2}
		}
		var files, conffiles strings.Builder
		for _, f := range slices.Sorted(maps.Keys(p.Conffiles)) {
			disk := "absent"
			if content, ok := h.files[f]; ok {
				disk = sum(content)
			}
			fmt.Fprintf(&files, "%d\t%s\n", len(p.Conffiles[f]), f)
			fmt.Fprintf(&conffiles, "%s\t%s\t%s\n", f, sum(p.Conffiles[f]), disk)
		}
		postinst := ""
		if p.Unit != "" {
			fmt.Fprintf(&files, "100\t/lib/systemd/system/%s\n", p.Unit)
			postinst = "systemctl restart " + p.Unit + "\n"
		}
		b.WriteString(strings.Join([]string{files.String(), conffiles.String(), "", postinst, "", "", "",
			"", ""}, within) + part)
	}
	return answer{out: b.String()}
}

func (h *Host) readDebs(args []string, _ string) answer {
	var b strings.Builder
	for _, f := range args[1:] {
		if p, ok := h.debs[f]; ok {
			fmt.Fprintf(&b, "%s\t%s\t%s\tamd64\t1024\t%s\n", f, p.Name, p.Version, digest(p))
		} else if args[0] == "" {
			return answer{err: "dpkg-deb: error: failed to read archive '" + f +
				"': No such file or directory\n", code: 1}
		}
	}
	return answer{out: b.String()}
}

func (h *Host) state(args []string, _ string) answer {
	r := h.runs[args[0]]
	if r == nil {
		return answer{out: "none\n"}
	}
	return answer{out: fmt.Sprintf("ended %d\n%s", r.code, r.change)}
}

func (h *Host) prepare(args []string, _ string) answer {
	h.prepared++
	return answer{out: fmt.Sprintf("%s.new.%06d\n", args[0], h.prepared)}
}

func (h *Host) write(args []string, stdin string) answer {
	_, data, _ := strings.Cut(stdin, "\n")
	if r := h.runs[path.Dir(args[0])]; r != nil && path.Base(args[0]) == "change.json" {
		r.change = []byte(data)
	}
	return answer{}
}

func (h *Host) savePackages(args []string, _ string) answer {
	var b strings.Builder
	prep := args[3]
	dir := prep[:strings.LastIndex(prep, ".new.")]
	for i := 4; i+3 < len(args); i += 4 {
		p := h.installed[args[i]]
		if p == nil {
			return answer{err: args[i] + " is not installed\n", code: 1}
		}
		from := "repack"
		if slices.ContainsFunc(h.offers, func(o Package) bool {
			return o.Name == p.Name &&
				o.Version == p.Version
		}) {
			from = "repository"
		}
		h.debs[path.Join(dir, args[i+3])] = p.Package
		fmt.Fprintf(&b, "%s\n%s  -\n", from, digest(p.Package))
	}
	return answer{out: b.String()}
}

func (h *Host) saveFiles(args []string, stdin string) answer {
	prep := args[1]
	dir := prep[:strings.LastIndex(prep, ".new.")]
	looked := strings.Fields(stdin)
	slices.Sort(looked)
	looked = slices.Compact(looked)
	saved := map[string]string{}
	var files []string
	for _, f := range looked {
		for _, s := range append([]string{""}, strings.Fields(args[2])...) {
			if content, ok := h.files[f+s]; ok {
				saved[f+s], files = content, append(files, f+s+"\n")
			}
		}
	}
	h.archives[dir] = saved
	out := ""
	if len(files) > 0 {
		out = h.archive(dir) + "  -\n"
	}
	return answer{out: out + part + strings.Join(files, "") + part + strings.Join(looked, "\n") + "\n"}
}

func (h *Host) archive(dir string) string {
	var b strings.Builder
	for _, f := range slices.Sorted(maps.Keys(h.archives[dir])) {
		fmt.Fprintf(&b, "%q %q\n", f, h.archives[dir][f])
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(b.String())))
}

func (h *Host) checkFiles(args []string, _ string) answer {
	return answer{out: h.archive(args[0]) + "  -\n"}
}

func (h *Host) revertFiles(args []string, stdin string) answer {
	for _, line := range strings.Fields(stdin) {
		if f, ok := strings.CutPrefix(line, "+"); ok {
			delete(h.files, f)
		}
	}
	maps.Copy(h.files, h.archives[args[1]])
	return answer{}
}

// start: prepared directory, root, directory, packages to hold, packages to mark,
// units to mask, directory of pins, "all" to pin those without a pin, pins, command.
func (h *Host) start(args []string, stdin string) answer {
	head, rest, _ := strings.Cut(stdin, "\n")
	n, err := strconv.Atoi(strings.Fields(head)[0])
	if err != nil || n > len(rest) {
		return answer{err: "the record of the change is cut\n", code: 1}
	}
	dir, mask := args[2], strings.Fields(args[5])
	for _, u := range mask {
		if h.units[u] != nil {
			h.units[u].masked = true
		}
	}
	r := h.install(args[9:])
	for _, u := range mask {
		if h.units[u] != nil {
			h.units[u].masked = false
		}
	}
	for _, one := range strings.Fields(args[8]) {
		name, version, _ := strings.Cut(one, "=")
		file := path.Join(args[6], "tykupgrade-"+name+".pref")
		p := h.installed[name]
		if _, ok := h.files[file]; args[7] == "" && !ok {
			continue
		}
		delete(h.files, file)
		if p != nil && version != "" && p.Version == version {
			h.files[file] = fmt.Sprintf("# Written by tykupgrade: apt keeps this version.\nPackage: %s\n"+
				"Pin: version %s\nPin-Priority: 1001\n", name, version)
		}
	}
	for _, n := range strings.Fields(args[4]) {
		if p := h.installed[n]; p != nil {
			p.auto = true
		}
	}
	for _, n := range strings.Fields(args[3]) {
		if p := h.installed[n]; p != nil {
			p.want = "hold"
		}
	}
	r.change = []byte(rest[:n])
	h.runs[dir] = r
	return answer{}
}

func (h *Host) follow(args []string, _ string) answer {
	r := h.runs[args[0]]
	if r == nil {
		return answer{err: "none\n"}
	}
	from, _ := strconv.Atoi(args[1])
	return answer{out: string(r.status[min(max(from-1, 0), len(r.status)):]),
		err: fmt.Sprintf("ended %d\n", r.code)}
}

func (h *Host) log(args []string, _ string) answer {
	if r := h.runs[args[0]]; r != nil {
		return answer{out: string(r.out) + part + string(r.errs)}
	}
	return answer{err: "No such file or directory\n", code: 1}
}

// changes: of each run of a plan the name, how it and its revert stand, its size, and what
// both recorded.
func (h *Host) changes(args []string, _ string) answer {
	var b strings.Builder
	for _, dir := range slices.Sorted(maps.Keys(h.runs)) {
		if path.Dir(dir) != args[0] || len(path.Base(dir)) != 16 {
			continue
		}
		stands, recorded := "none", ""
		if r := h.runs[dir+"-revert"]; r != nil {
			stands, recorded = fmt.Sprintf("ended %d", r.code), string(r.change)
		}
		r := h.runs[dir]
		b.WriteString(strings.Join([]string{path.Base(dir), fmt.Sprintf("ended %d", r.code), stands, "4",
			string(r.change), recorded}, within) + part)
	}
	return answer{out: b.String()}
}

func (h *Host) forget(args []string, _ string) answer {
	h.note("forget %s", path.Base(args[0]))
	for _, dir := range []string{args[0], args[0] + "-revert"} {
		delete(h.runs, dir)
		delete(h.archives, dir)
		maps.DeleteFunc(h.debs, func(f string, _ Package) bool { return path.Dir(f) == dir })
	}
	return answer{}
}

func (h *Host) restart(args []string, _ string) answer {
	for _, n := range args {
		u := h.units[n]
		if u == nil {
			return answer{err: "Failed to restart " + n + ": Unit " + n + " not found.\n", code: 5}
		}
		h.note("restart %s", n)
		u.started++
		u.active = true
		for _, p := range h.installed {
			if p.Unit == n && p.Crash {
				u.active = false
			}
		}
	}
	return answer{}
}

func (h *Host) watch(args []string, _ string) answer { return answer{out: h.show(args[1:])} }

func (h *Host) aptHistory([]string, string) answer {
	return answer{out: strings.Join(h.history,
		"\n")}
}

package pluginbuild

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// Command is one command of a plan.
type Command struct {
	Argv []string `json:"argv"`
	Why  string   `json:"why"`
}

// Shell returns the command as one line for a POSIX shell.
func (c Command) Shell() string {
	words := make([]string, len(c.Argv))
	for i, a := range c.Argv {
		words[i] = shellQuote(a)
	}
	return strings.Join(words, " ")
}

func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("@%_+=:,./-", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// CommandOptions changes which commands a release needs. The zero value gives
// the full set for any module.
type CommandOptions struct {
	// GoMod is the module's present go.mod. With it, a go directive that the
	// compiler accepts is kept, and replaces that an earlier release needed
	// and this one does not are dropped.
	GoMod []byte

	// NoGet leaves the gateway's module to the compiler's workspace, from 5.1
	// on: go.mod then does not name it, nothing is fetched, and the compile
	// does not look the gateway's commit up. Editors and unit tests on the
	// outside cannot resolve imports of the gateway then.
	NoGet bool
}

// Commands returns what to run, in order, in the directory of a plugin module
// so that it fits the release. All are argv lists of the go command.
func (r Release) Commands(o CommandOptions) ([]Command, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if o.NoGet && r.Compiler.Mode != Workspace {
		return nil, fmt.Errorf("commands for %s without go get: %w", r.Version, ErrNeedsGet)
	}
	edit, err := r.edit(o)
	if err != nil {
		return nil, err
	}
	if o.NoGet {
		// No tidy: it would look for the gateway, and find v1.9.1.
		return []Command{edit}, nil
	}
	commands := []Command{
		edit,
		{[]string{"go", "get", Module + "@" + r.Commit, "toolchain@none"}, "the commit of " + r.Tag() +
			"; the module has no /vN path, so Go refuses the tag"},
		{[]string{"go", "mod", "tidy"}, "take over what the gateway requires"},
	}
	if r.Path().vendors() {
		commands = append(commands, Command{[]string{"go", "mod", "vendor"},
			"compilers before 5.1.0 build from the vendor directory"})
	}
	return commands, nil
}

// edit is everything that must be right before the go command loads the
// module: it would stop at a go directive newer than itself, and at old
// requirements that only resolve with an old replace.
func (r Release) edit(o CommandOptions) (Command, error) {
	argv := []string{"go", "mod", "edit"}
	var mod *modfile.File
	if o.GoMod != nil {
		var err error
		if mod, err = modfile.Parse("go.mod", o.GoMod, nil); err != nil {
			return Command{}, fmt.Errorf("commands for %s: %w", r.Version, err)
		}
	}
	var why []string
	if mod == nil || !r.accepts(directive(mod)) {
		if r.Go != "" {
			argv = append(argv, "-go="+r.Go)
			why = append(why, "a go directive that the release's compiler accepts")
		}
	}
	argv = append(argv, "-toolchain=none")
	why = append(why, "no other toolchain than the compiler's")
	// The earlier commit would have to be fetched, and may be newer.
	argv = append(argv, "-droprequire="+Module)
	if mod != nil {
		drop := r.stale(mod)
		for _, d := range drop {
			argv = append(argv, "-dropreplace="+at(d.Old, d.OldVersion))
		}
		for _, q := range mod.Require {
			if q.Mod.Version == placeholder && (o.NoGet || !r.replaces(q.Mod.Path)) {
				argv = append(argv, "-droprequire="+q.Mod.Path)
			}
		}
		if len(drop) > 0 {
			why = append(why, "without the replaces of other releases")
		}
	}
	if !o.NoGet {
		for _, p := range r.Replaces {
			argv = append(argv, "-replace="+p.String())
		}
		if len(r.Replaces) > 0 {
			why = append(why, "the gateway's own replaces, which a module that requires it does not inherit")
		}
	}
	return Command{argv, strings.Join(why, "; ")}, nil
}

// placeholder is the version that 3.x gateways required of modules which only
// their replace made resolvable.
const placeholder = "v0.0.0-00010101000000-000000000000"

func (r Release) replaces(path string) bool {
	return slices.ContainsFunc(r.Replaces, func(p Replace) bool { return p.Old == path })
}

// stale returns the replaces in mod that are those of other releases. They
// would apply to the whole workspace of the compiler, and the plugin would be
// built with other packages than the gateway.
func (r Release) stale(mod *modfile.File) []Replace {
	var stale []Replace
	for _, m := range mod.Replace {
		p := Replace{m.Old.Path, m.Old.Version, m.New.Path, m.New.Version}
		ofOther := slices.ContainsFunc(known(), func(x Release) bool {
			return slices.Contains(x.Replaces,
				p)
		})
		if ofOther && !slices.Contains(r.Replaces, p) {
			stale = append(stale, p)
		}
	}
	return stale
}

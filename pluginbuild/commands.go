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

// CommandOptions configures [Release.Commands]. The zero value gives all commands for any
// module.
type CommandOptions struct {
	// GoMod is the module's current go.mod. With it, the commands keep a go directive that the
	// compiler accepts, and drop replaces that only other releases need.
	GoMod []byte

	// NoGet leaves the gateway's module to the workspace of compilers from 5.1.0 on. The
	// commands then fetch nothing, and go.mod does not name the gateway, so a compile works
	// offline. The disadvantage: editors and unit tests cannot resolve imports of the gateway.
	NoGet bool
}

// Commands returns the commands that prepare a plugin module for the release. Run them in order
// in the module's directory. All of them are go commands. The error wraps [ErrNeedsGet] if NoGet
// is set for a release before 5.1.0.
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
		{[]string{"go", "mod", "tidy"}, "take over the gateway's requirements"},
	}
	if r.Path().vendors() {
		commands = append(commands, Command{[]string{"go", "mod", "vendor"},
			"compilers before 5.1.0 build from the vendor directory"})
	}
	return commands, nil
}

// edit returns the changes that the go command needs before it can load the module. It stops at
// a go directive newer than itself, and at old requirements that need an old replace.
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
	// The go command would fetch the earlier commit, which may even be newer.
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

// placeholder is the version that 3.x gateways required of modules that resolve only through
// their replace.
const placeholder = "v0.0.0-00010101000000-000000000000"

func (r Release) replaces(path string) bool {
	return slices.ContainsFunc(r.Replaces, func(p Replace) bool { return p.Old == path })
}

// stale returns the replaces in mod that belong to other releases. They would apply to the
// compiler's whole workspace, so plugin and gateway would have different packages.
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

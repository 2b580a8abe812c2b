package pluginbuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/modfile"

	"example.com/tykupgrade/internal/redact"
	"example.com/tykupgrade/internal/run"
)

// PrepareOptions configures [Prepare]. The zero value is useful.
type PrepareOptions struct {
	NoGet   bool         // as in [CommandOptions]
	Go      string       // the go program; empty: "go" from PATH
	Env     []string     // KEY=value pairs to add to the environment of the commands
	OnEvent func(Event)  // called at the start and end of each step and for output lines
	Log     *slog.Logger // nil: silent
}

// Prepared is the result of [Prepare].
type Prepared struct {
	Commands []Command `json:"commands"`
	// changed files, and vendor if it was written again
	Changed   []string `json:"changed"`
	Recovered bool     `json:"recovered,omitempty"` // Prepare first undid an interrupted one
	Recovery  Recovery `json:"recovery,omitzero"`   // details of that
}

// String describes the changes for people.
func (p Prepared) String() string {
	if len(p.Changed) == 0 {
		return "nothing had to change"
	}
	return "changed " + strings.Join(p.Changed, ", ")
}

// Prepare runs [Release.Commands] in dir, so that the plugin module there fits the release. The
// commands inherit the caller's environment. So GOPROXY, GOPRIVATE, GONOSUMDB, netrc, the SSH
// agent and `go env -w` work as on the command line. Two variables differ: GOWORK is off, and
// GOFLAGS keeps only -modcacherw. With -modfile or -overlay in GOFLAGS, Prepare fails with
// [ErrGoFlags].
//
// Prepare is a transaction. It undoes all changes if a step fails, if the result does not fit
// the release, or if ctx ends. It then restores go.mod, go.sum, go.work, go.work.sum and the
// vendor directory byte for byte. Until the end it keeps copies in .tykupgrade-prepare in dir.
// After a kill or a power cut the next Prepare or [Recover] restores them. The file system of
// dir must support locks and renames of directories.
//
// The error of a failed step wraps an [Error]. A second call for the same dir at the same time
// fails with [ErrBusy].
func Prepare(ctx context.Context, dir string, r Release, o PrepareOptions) (Prepared, error) {
	p, err := prepare(ctx, dir, r, o)
	if err != nil {
		return Prepared{Recovered: p.Recovered, Recovery: p.Recovery}, fmt.Errorf("prepare %s for %s: %w",
			dir, r.name(), err)
	}
	return p, nil
}

// name returns the version for messages, also of an invalid release.
func (r Release) name() string {
	if r.Version == nil {
		return "a release without version"
	}
	return r.Version.String()
}

func prepare(ctx context.Context, dir string, r Release, o PrepareOptions) (p Prepared, err error) {
	if _, err := r.Commands(CommandOptions{NoGet: o.NoGet}); err != nil {
		return p, err
	}
	if err := ended(ctx); err != nil {
		return p, err
	}
	settings, err := o.goEnv()
	if err != nil {
		return p, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return p, err
	}
	if _, err := os.Lstat(filepath.Join(dir, "go.mod")); errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("%w; run `go mod init` with the plugin's module path first", errNoGoMod)
	} else if err != nil {
		return p, err
	}
	vendored := r.Path().vendors()
	t, recovered, err := begin(dir, r.name(), vendored)
	p.Recovered, p.Recovery = recovered.Found, recovered
	if err != nil {
		return p, err
	}
	defer t.release()
	if recovered.Found {
		o.log().Warn("undid an interrupted prepare", "dir", dir, "moved aside", recovered.Moved, "to",
			recovered.Aside)
	}
	for _, n := range r.Notes {
		o.log().Warn("release", "version", r.name(), "note", n)
	}
	if p.Commands, err = o.steps(ctx, t, r, settings); err == nil {
		p.Changed, err = t.changed(vendored)
	}
	if err == nil {
		err = t.commit()
	}
	if err != nil {
		// Also after ctx ended: nothing may stay half done.
		if back := t.rollback(); back != nil {
			return p, errors.Join(err, back)
		}
		return p, fmt.Errorf("%w (the module is restored)", err)
	}
	return p, nil
}

// Recovery is the result of undoing an interrupted [Prepare].
type Recovery struct {
	Found bool `json:"found"` // there was an interrupted Prepare
	// files and directories of the module that differed from the saved ones
	Moved []string `json:"moved,omitempty"`
	Aside string   `json:"aside,omitempty"` // their new directory, in the module
}

// String describes the recovery for people. It is empty if there was nothing to undo.
func (r Recovery) String() string {
	switch {
	case r.Aside != "":
		return fmt.Sprintf("an interrupted run was undone; changed files (%s) are now in %s",
			strings.Join(r.Moved, ", "), r.Aside)
	case r.Found:
		return "an interrupted run was undone"
	}
	return ""
}

// Recover undoes an interrupted [Prepare] of the module in dir. The next Prepare does so by
// itself. A file that differs from the saved one may be a person's later work. Recover moves it
// into a directory next to go.mod and names it. An interrupted Recover can be repeated. It fails
// with [ErrBusy] during a Prepare.
func Recover(dir string) (Recovery, error) {
	r, err := recoverDir(dir)
	if err != nil {
		return r, fmt.Errorf("recover %s: %w", dir, err)
	}
	return r, nil
}

func recoverDir(dir string) (Recovery, error) {
	if _, err := os.Lstat(filepath.Join(dir, backupDir)); errors.Is(err, fs.ErrNotExist) {
		return Recovery{}, nil
	}
	t := &transaction{dir: dir}
	if err := t.acquire(); err != nil {
		return Recovery{}, err
	}
	defer t.release()
	return t.recovery()
}

// steps runs the commands and checks their result.
func (o PrepareOptions) steps(ctx context.Context, t *transaction, r Release,
	settings []string) ([]Command, error) {
	data, err := readModuleFile(os.DirFS(t.dir))
	if err != nil {
		return nil, err
	}
	commands, err := r.Commands(CommandOptions{GoMod: data, NoGet: o.NoGet})
	if err != nil {
		return nil, err
	}
	for _, c := range commands {
		if err := o.step(ctx, t, c, settings); err != nil {
			return nil, err
		}
	}
	return commands, r.fits(t.dir, o.NoGet)
}

func (o PrepareOptions) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// step runs one command and reports it.
func (o PrepareOptions) step(ctx context.Context, t *transaction, c Command,
	settings []string) error {
	emit := o.OnEvent
	if emit == nil {
		emit = func(Event) {}
	}
	name := stepName(c.Argv)
	argv := c.Argv
	if o.Go != "" {
		argv = append([]string{o.Go}, argv[1:]...)
	}
	runner := run.Local(run.Options{Dir: t.dir, Env: slices.Concat(o.Env, settings)})
	o.log().Info("run", "dir", t.dir, "argv", argv)
	emit(Event{Stage: name, Kind: Started})
	start := time.Now()
	var mu sync.Mutex
	var tail run.Tail
	lines := func(stderr bool) *run.Lines {
		return &run.Lines{Emit: func(l string) {
			l = redact.Text(l)
			mu.Lock()
			defer mu.Unlock()
			_, _ = io.WriteString(&tail, l+"\n")
			emit(Event{Stage: name, Kind: Output, Line: l, Stderr: stderr})
		}}
	}
	out, errs := lines(false), lines(true)
	err := runner(ctx, argv, t.lock, out, errs)
	out.Flush()
	errs.Flush()
	if err != nil {
		err = stepError(ctx, name, argv, tail.String(), err)
	}
	emit(Event{Stage: name, Kind: Done, Elapsed: time.Since(start), Err: err})
	return err
}

// stepName returns a command's name for events and errors, such as "go mod tidy".
func stepName(argv []string) string {
	n := 2
	if len(argv) > 2 && argv[1] == "mod" {
		n = 3
	}
	return strings.Join(argv[:min(n, len(argv))], " ")
}

// fits checks go.mod after the commands. They can succeed although a dependency requires more
// than the release's compiler accepts.
func (r Release) fits(dir string, noGet bool) error {
	data, err := readModuleFile(os.DirFS(dir))
	if err != nil {
		return err
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		return err
	}
	bad := func(hint, format string, a ...any) error {
		return &Error{Op: "check go.mod", Err: fmt.Errorf(format, a...), Next: hint, ExitCode: -1}
	}
	if d := directive(mod); r.Go != "" && !r.accepts(d) {
		return bad("find it with `go list -m -f '{{.GoVersion}} {{.Path}}' all`, and require an older "+
			"version of it",
			"a dependency raised the go directive to %s, but the compiler of %s has %s", d, r.Version,
			r.goLimit())
	}
	if noGet {
		return nil
	}
	c := &checker{src: os.DirFS(dir), r: r}
	if err := c.read(); err != nil {
		return err
	}
	switch has := requires(mod, Module); {
	case has == "" && c.imports(Module):
		return bad("look for a replace or exclude directive of the gateway's module",
			"the plugin imports the gateway's module, but go.mod does not require it")
	case has != "" && !c.isCommit(has):
		return bad("find it with `go mod graph`, and require a version that is made for this release",
			"a dependency raised the gateway's module to %s instead of the commit %.12s", has, r.Commit)
	}
	return nil
}

// changed returns the names of files that differ from the saved state.
func (t *transaction) changed(vendored bool) ([]string, error) {
	names := []string{}
	for _, s := range t.Files {
		now, err := digest(filepath.Join(t.dir, s.Name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if now != s.SHA256 {
			names = append(names, s.Name)
		}
	}
	if vendored {
		names = append(names, vendorName)
	}
	return names, nil
}

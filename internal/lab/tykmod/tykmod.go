// Package tykmod is a stub of the gateway's Go module, which the module proxy
// in use may not have: it writes a file tree that the go command accepts as
// GOPROXY, with a small module of the gateway's path, at any commit, and the
// few modules that it needs.
//
//	g := tykmod.Gateway{Version: "v1.9.2-0.20231218094207-cbda400a37ee", Commit: "cbda400a…", Go: "1.19"}
//	url, err := tykmod.Proxy(dir, append(g.Modules(), tykmod.Logrus("v1.9.3"))...)
//	cmd.Env = append(os.Environ(), tykmod.Env(url, modcache)...)
//
// What it serves carries the names of real modules, so a module cache filled
// from it must never be shared with real builds: always give Env a directory
// of the test's own.
package tykmod

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// Path is the gateway's module path.
const Path = "github.com/TykTechnologies/tyk"

// Module is one version of a module as the proxy serves it.
type Module struct {
	Path    string
	Version string            // canonical, such as v1.2.3 or a pseudo-version
	Commit  string            // resolves to Version as well, when not empty
	Time    time.Time         // of the commit; zero: taken from a pseudo-version, or the year 2020
	Files   map[string]string // by slash-separated path inside the module; go.mod is one of them
}

// Gateway describes the stub for the gateway's module at one commit. Its
// packages are ctx, log, user and apidef, with the few names of them that
// plugins use most. It requires logrus [LogrusVersion] and every module that
// Replaces names on the left, each used by package apidef, as the real one
// uses the graphql fork.
type Gateway struct {
	Version  string   // v1.9.2-0.<time>-<12 hex>
	Commit   string   // 40 hex digits
	Go       string   // go directive
	Replaces []string // "old[@version]=new@version", as `go mod edit -replace` takes them
}

// LogrusVersion is the version of the logging module that a [Gateway] requires.
const LogrusVersion = "v1.9.0"

// placeholder is what a go.mod requires when only a replace makes it
// resolvable; 3.x gateways did so.
const placeholder = "v0.0.0-00010101000000-000000000000"

// Modules returns the gateway's module and everything that it needs. The left
// side of a replace is only served when it names a version, so leaving out any
// other replace is an error, as it was with 3.x gateways.
func (g Gateway) Modules() []Module {
	mod := &strings.Builder{}
	fmt.Fprintf(mod, "module %s\n\ngo %s\n\nrequire github.com/sirupsen/logrus %s\n", Path, g.Go,
		LogrusVersion)
	imports, uses := &strings.Builder{}, &strings.Builder{}
	deps := []Module{Logrus(LogrusVersion)}
	for i, r := range g.Replaces {
		from, to, _ := strings.Cut(r, "=")
		oldPath, oldVersion, versioned := strings.Cut(from, "@")
		newPath, newVersion, _ := strings.Cut(to, "@")
		if versioned {
			deps = append(deps, leaf(oldPath, oldPath, oldVersion))
			fmt.Fprintf(mod, "require %s %s\n", oldPath, oldVersion)
		} else {
			fmt.Fprintf(mod, "require %s %s\n", oldPath, placeholder)
		}
		fmt.Fprintf(mod, "replace %s => %s %s\n", strings.ReplaceAll(from, "@", " "), newPath, newVersion)
		fmt.Fprintf(imports, "import dep%d %q\n", i, oldPath)
		fmt.Fprintf(uses, "var _ = dep%d.Name\n", i)
		deps = append(deps, leaf(newPath, oldPath, newVersion))
	}
	files := Packages()
	files["go.mod"] = mod.String()
	files["apidef/deps.go"] = "package apidef\n\n" + imports.String() + uses.String()
	files["log/log.go"] = "package log\n\nimport \"github.com/sirupsen/logrus\"\n\nvar log = " +
		"logrus.New()\n\nfunc Get() *logrus.Logger { return log }\n"
	return append([]Module{{Path: Path, Version: g.Version, Commit: g.Commit, Files: files}}, deps...)
}

// Packages returns the packages of the gateway's module that depend on no other module, by file.
// They have the names that plugins use most.
func Packages() map[string]string {
	return map[string]string{
		"apidef/apidef.go": `package apidef

type APIDefinition struct {
	APIID, Name, OrgID string
	ConfigData         map[string]interface{}
}
`,
		"user/user.go": `package user

type SessionState struct {
	Alias, OrgID, KeyID string
	Rate, Per           float64
	Tags                []string
	MetaData            map[string]interface{}
}
`,
		"ctx/ctx.go": `package ctx

import (
	"net/http"

	"` + Path + `/apidef"
	"` + Path + `/user"
)

func GetSession(r *http.Request) *user.SessionState { return &user.SessionState{} }

func SetSession(r *http.Request, s *user.SessionState, scheduleUpdate bool, hashKey ...bool) {}

func GetAuthToken(r *http.Request) string { return "" }

func GetDefinition(r *http.Request) *apidef.APIDefinition { return &apidef.APIDefinition{} }
`,
	}
}

// leaf is a module without dependencies whose go.mod declares another path
// than it is served under, as a fork does.
func leaf(served, declared, version string) Module {
	name := strings.NewReplacer("-", "", ".", "").Replace(path.Base(declared))
	return Module{Path: served, Version: version, Files: map[string]string{
		"go.mod":     "module " + declared + "\n",
		name + ".go": fmt.Sprintf("package %s\n\nconst Name = %q\n", name, served+"@"+version),
	}}
}

// Logrus is the logging module in any version.
func Logrus(version string) Module {
	return Module{Path: "github.com/sirupsen/logrus", Version: version, Files: map[string]string{
		"go.mod": "module github.com/sirupsen/logrus\n\ngo 1.12\n",
		"logrus.go": `package logrus

import "os"

const version = "` + version + `"

type Logger struct{}

func New() *Logger { return &Logger{} }

func (*Logger) Info(args ...interface{}) {
	for _, a := range args {
		if s, ok := a.(string); ok {
			os.Stderr.WriteString("level=info version=" + version + " msg=" + s + "\n")
		}
	}
}
`,
	}}
}

// Proxy writes the modules below dir, to what an earlier call wrote there, and
// returns dir as a GOPROXY URL. Two modules of the same path and version must
// be the same.
func Proxy(dir string, mods ...Module) (url string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, m := range mods {
		if err := m.write(abs); err != nil {
			return "", fmt.Errorf("stub proxy, %s@%s: %w", m.Path, m.Version, err)
		}
	}
	return "file://" + filepath.ToSlash(abs), nil
}

func (m Module) write(proxy string) error {
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	dir := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	at := m.Time
	if at.IsZero() {
		if at, err = module.PseudoVersionTime(m.Version); err != nil {
			at = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
		}
	}
	info, err := json.Marshal(map[string]any{"Version": m.Version, "Time": at})
	if err != nil {
		return err
	}
	var zipped bytes.Buffer
	var files []zip.File
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		files = append(files, file{name, m.Files[name]})
	}
	if err := zip.Create(&zipped, module.Version{Path: m.Path, Version: m.Version},
		files); err != nil {
		return err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return err
	}
	parts := map[string][]byte{
		version + ".info": info,
		version + ".mod":  []byte(m.Files["go.mod"]),
		version + ".zip":  zipped.Bytes(),
	}
	if m.Commit != "" {
		parts[m.Commit+".info"] = info
		parts[m.Commit[:min(12, len(m.Commit))]+".info"] = info
	}
	for name, data := range parts {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return m.enlist(filepath.Join(dir, "list"))
}

// enlist adds the version to the list of tagged versions; pseudo-versions do
// not belong there.
func (m Module) enlist(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	versions := strings.Fields(string(old))
	if !module.IsPseudoVersion(m.Version) && !slices.Contains(versions, m.Version) {
		versions = append(versions, m.Version)
	}
	return os.WriteFile(path, []byte(strings.Join(append(versions, ""), "\n")), 0o644)
}

// Extract writes the module's files below dir, as a checkout of it.
func (m Module) Extract(dir string) error {
	for name, content := range m.Files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Env returns the variables with which the go command takes modules from
// proxy alone and keeps them in modcache, whatever the caller's settings.
func Env(proxy, modcache string) []string {
	return []string{
		"GOPROXY=" + proxy, "GOSUMDB=off", "GONOSUMDB=", "GOPRIVATE=", "GONOPROXY=",
		"GOMODCACHE=" + modcache, "GOFLAGS=-modcacherw", // else a test's directory could not be removed
		"GOENV=off", "GOWORK=off", "GOTOOLCHAIN=local",
	}
}

// file is one entry for package zip.
type file struct{ name, content string }

func (f file) Path() string                { return f.name }
func (f file) Lstat() (fs.FileInfo, error) { return f, nil }
func (f file) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f.content)),
		nil
}
func (f file) Name() string       { return path.Base(f.name) }
func (f file) Size() int64        { return int64(len(f.content)) }
func (f file) Mode() fs.FileMode  { return 0o644 }
func (f file) ModTime() time.Time { return time.Time{} }
func (f file) IsDir() bool        { return false }
func (f file) Sys() any           { return nil }

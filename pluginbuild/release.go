package pluginbuild

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/mod/module"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Module is the gateway's module path. It has no /vN suffix, so the go command accepts only
// commits, and no tags from v2.0.0 on.
const Module = "github.com/TykTechnologies/tyk"

// Release describes a gateway release for building plugins. The zero value of a field means "no"
// or "unknown", but Version is required. Without it, methods return an error, or panic if they
// have no error result.
type Release struct {
	Version *semver.Version `json:"version"`
	Commit  string          `json:"commit"`        // 40 hex digits
	Date    time.Time       `json:"date,omitzero"` // of the commit
	// go directive of the release's go.mod: "1.16", "1.25.0"
	Go        string    `json:"go,omitempty"`
	Toolchain string    `json:"toolchain,omitempty"` // its toolchain directive
	Replaces  []Replace `json:"replaces,omitempty"`  // its replace directives, in order
	Compiler  Compiler  `json:"compiler"`            // empty Mode: only Next exists
	// the next-generation compiler, if the release has one
	Next *Compiler `json:"next,omitempty"`
	// the compiler image is unusable; Notes explain why
	Broken bool     `json:"broken,omitempty"`
	Notes  []string `json:"notes,omitempty"` // peculiarities of the release
}

// Replace is a replace directive. Modules that require the gateway do not inherit it, so a
// plugin module needs a copy.
type Replace struct {
	Old        string `json:"old"`
	OldVersion string `json:"old_version,omitempty"` // empty: any version
	New        string `json:"new"`
	NewVersion string `json:"new_version"`
}

// String returns the directive in the form that `go mod edit -replace` takes.
func (r Replace) String() string {
	return at(r.Old, r.OldVersion) + "=" + at(r.New, r.NewVersion)
}

func at(path, version string) string {
	if version == "" {
		return path
	}
	return path + "@" + version
}

// Compiler describes a release's plugin compiler image and its script. All images run as root
// and expect the plugin's source in /plugin-source.
type Compiler struct {
	Variant Variant `json:"variant,omitempty"` // empty: Classic
	// Go minor version, such as "1.19"; the patch level may change
	Go       string    `json:"go,omitempty"`
	Base     string    `json:"base,omitempty"`     // its base image
	Mode     Mode      `json:"mode"`               // how it builds
	Editions []Edition `json:"editions,omitempty"` // empty: only Standard
	// there is a tag with the suffix -el7
	EL7 bool `json:"el7,omitempty"`
	// distributions such as "ubuntu/xenial" whose packages come from the -el7 build
	EL7Distros []string `json:"el7_distros,omitempty"`
	// distributions with packages from both builds: check the installed binary
	EL7OrPlainDistros []string `json:"el7_or_plain_distros,omitempty"`
	// output is <name>_vX.Y.Z_<os>_<arch>.so, otherwise the plain name
	Suffix bool `json:"suffix,omitempty"`
	// accepts argument 2, the plugin id
	PluginID bool `json:"plugin_id,omitempty"`
	// accepts arguments 3 and 4, GOOS and GOARCH
	PlatformArgs bool `json:"platform_args,omitempty"`
	CrossARM64   bool `json:"cross_arm64,omitempty"` // has a C compiler for arm64
	// has a C compiler for s390x, in the standard edition
	CrossS390X bool `json:"cross_s390x,omitempty"`
	// variables that it reads: GO_GET, GO_TIDY, DEBUG, BUILD_TAG
	Env []string `json:"env,omitempty"`
	// compiler and gateway build with -trimpath
	Trimpath    bool `json:"trimpath,omitempty"`
	GopluginTag bool `json:"goplugin_tag,omitempty"` // builds with -tags=goplugin
	// renames the module if there is a plugin id, and creates a missing go.mod
	RenamesModule bool `json:"renames_module,omitempty"`
	// the image has no modules: it needs a proxy or a filled module cache
	FetchesModules bool `json:"fetches_modules,omitempty"`
	// the image has /usr/local/bin/tyk
	Gateway bool `json:"gateway,omitempty"`
	// platforms that the image runs on; empty: only linux/amd64
	Hosts []string `json:"hosts,omitempty"`
	// the newest glibc that plugins need; empty: that of the base image
	Glibc string `json:"glibc,omitempty"`
	// source of these facts; empty: the release's tag
	Source string `json:"source,omitempty"`
}

// Variant is one of the two compiler images of a release.
type Variant string

// The variants. NextGen has the tag suffix -ng. It copies files with a leading dot and sets the
// go directive of the plugin's go.mod to its own Go. It makes a missing go.mod, never renames the
// plugin's module, and checks its output.
const (
	Classic Variant = "classic"
	NextGen Variant = "ng"
)

// CreatesModule reports whether the script makes a missing go.mod.
func (c Compiler) CreatesModule() bool { return c.RenamesModule || c.Variant == NextGen }

// Platforms returns the platforms that the image runs on, such as "linux/amd64".
func (c Compiler) Platforms() []string {
	if len(c.Hosts) == 0 {
		return []string{"linux/amd64"}
	}
	return c.Hosts
}

// Crosses reports whether the image has a C compiler for linux on goarch.
func (c Compiler) Crosses(goarch string, e Edition) bool {
	switch goarch {
	case "amd64":
		return true
	case "arm64":
		return c.CrossARM64
	case "s390x":
		return c.CrossS390X && (e == "" || e == Standard)
	}
	return false
}

// WithVariant returns the release with the compiler v as its Compiler. An empty v means the
// classic one, or the next-generation one if the release has no other. The error wraps
// [ErrUnsupported] if the release lacks it, and [ErrRequest] in any case.
func (r Release) WithVariant(v Variant) (Release, error) {
	none := func(what string) (Release, error) {
		return Release{}, &Error{Op: "choose compiler", Object: "of " + r.name(), Kind: ErrUnsupported,
			Err: errors.New(what), ExitCode: -1}
	}
	switch v {
	case "":
		if r.Compiler.Mode == "" && r.Next != nil {
			r.Compiler = *r.Next
		}
	case r.Compiler.variant():
	case Classic:
		return none("it has only the next-generation compiler (ng)")
	case NextGen:
		if r.Next == nil {
			return none("it has no next-generation compiler (ng)")
		}
		r.Compiler = *r.Next
	default:
		return Release{}, refuse("choose compiler", "of "+r.name(),
			"unknown variant %q (want classic or ng)", v)
	}
	return r, nil
}

// variant returns the variant, or "" without a compiler.
func (c Compiler) variant() Variant {
	if c.Variant == "" && c.Mode != "" {
		return Classic
	}
	return c.Variant
}

// Mode is how a compiler image builds a plugin.
type Mode string

// The modes of compiler images, oldest first.
const (
	// Vendor: the script copies the plugin's vendor directory into GOPATH.
	Vendor Mode = "vendor"
	// GOPATH: the script deletes the plugin's go.mod. The gateway's vendored packages take
	// precedence over the plugin's.
	GOPATH Mode = "gopath"
	// Modules: the script neither vendors nor makes a workspace. Only 5.0.2 does so, by mistake.
	Modules Mode = "modules"
	// Workspace: the script makes a go.work of the gateway and the plugin.
	Workspace Mode = "workspace"
)

// Edition is an edition of a gateway release. A plugin loads only into the edition that it was
// compiled for.
type Edition string

// The editions of compiler images.
const (
	Standard   Edition = "std"
	Enterprise Edition = "ee"   // from 5.7.0
	FIPS       Edition = "fips" // 5.8.14 and 5.8.15, and from 5.13.0
)

// Image returns the reference of the official compiler image. It fails if the release lacks the
// edition or the -el7 variant.
func (r Release) Image(e Edition, el7 bool) (string, error) {
	if err := r.Validate(); err != nil {
		return "", fmt.Errorf("compiler image: %w", err)
	}
	name, tag := "tykio/tyk-plugin-compiler", r.Tag()
	if e == "" {
		e = Standard
	}
	if e != Standard {
		name += "-" + string(e)
	}
	if e != Standard && !slices.Contains(r.Compiler.Editions, e) {
		return "", fmt.Errorf("compiler image of %s: unknown edition %q (want one of %v)",
			r.Version, e, r.editions())
	}
	if r.Compiler.Variant == NextGen {
		tag += "-ng"
	}
	if el7 {
		tag += "-el7"
		if !r.Compiler.EL7 {
			return "", fmt.Errorf("compiler image of %s: no -el7 variant", r.Version)
		}
	}
	return name + ":" + tag, nil
}

func (r Release) editions() []Edition {
	if len(r.Compiler.Editions) == 0 {
		return []Edition{Standard}
	}
	return r.Compiler.Editions
}

// Output returns the name of the compiler's output file for the requested name. The script
// replaces any last extension. Its suffix has no pre-release part, because it cuts
// v<major>.<minor>.<patch> out of the tag.
func (r Release) Output(name, goos, goarch string) string {
	if !r.Compiler.Suffix {
		return name
	}
	return fmt.Sprintf("%s_v%d.%d.%d_%s_%s.so", strings.TrimSuffix(name, path.Ext(name)),
		r.Version.Major(), r.Version.Minor(), r.Version.Patch(), goos, goarch)
}

var (
	nameForm = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._-]*\.so$`)
	// suffixed matches a name that already has the compiler's suffix.
	suffixed = lazyregexp.New(`^(.+?)_v?[0-9]+\.[0-9]+\.[0-9]+[^/]*\.so$`)
)

// ValidateName returns an error for a name under which a gateway cannot find the plugin. It
// refuses paths and other endings than .so. If the compiler adds the version, it also refuses
// names that have one. Errors match [ErrRequest].
func (r Release) ValidateName(name string) error {
	if !nameForm.MatchString(name) {
		return refuse("name plugin", strconv.Quote(name), "want a plain file name of letters, digits, "+
			"dots, - and _ that ends in .so, such as plugin.so")
	}
	if m := suffixed.FindStringSubmatch(name); m != nil && r.Compiler.Suffix {
		return refuse("name plugin", strconv.Quote(name),
			"the compiler of %s adds version and platform itself, so gateways would look for %s; "+
				"name it %s.so",
			r.Version, r.Output(name, "linux", "amd64"), m[1])
	}
	return nil
}

// Tag returns the release's git tag.
func (r Release) Tag() string { return "v" + r.Version.String() }

// PseudoVersion returns the version of the release in a go.mod, or "" if the commit's date is
// unknown. It begins with v1.9.2-0, because every commit of 3.x to 5.x descends from tag v1.9.1.
func (r Release) PseudoVersion() string {
	if r.Date.IsZero() || len(r.Commit) < 12 {
		return ""
	}
	return module.PseudoVersion("v1", "v1.9.1", r.Date, r.Commit[:12])
}

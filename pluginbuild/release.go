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

// Module is the gateway's module path. It has no /vN suffix, so no tag from
// v2.0.0 on can be requested by name; only commits work.
const Module = "github.com/TykTechnologies/tyk"

// Release is what is known of one gateway release, as far as building a plugin
// for it goes. The zero value of a field means "no" or "not known", but Version
// is required: [Release.Validate] and all that return an error report its
// absence, the other methods panic.
type Release struct {
	Version *semver.Version `json:"version"`
	Commit  string          `json:"commit"`        // 40 hex digits
	Date    time.Time       `json:"date,omitzero"` // of the commit
	// go directive of the release's go.mod: "1.16", "1.25.0"
	Go        string    `json:"go,omitempty"`
	Toolchain string    `json:"toolchain,omitempty"` // its toolchain directive
	Replaces  []Replace `json:"replaces,omitempty"`  // its replace directives, in order
	Compiler  Compiler  `json:"compiler"`            // with the zero Mode there is none but Next
	// the next-generation compiler, where the release has one
	Next *Compiler `json:"next,omitempty"`
	// the compiler image cannot be used; Notes say why
	Broken bool     `json:"broken,omitempty"`
	Notes  []string `json:"notes,omitempty"` // what is odd about the release
}

// Replace is one replace directive. It does not pass on to modules that
// require the gateway, so a plugin module needs a copy.
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

// Compiler is a release's plugin compiler image and what its script can do. All
// images run as root and expect the plugin's source in /plugin-source.
type Compiler struct {
	Variant Variant `json:"variant,omitempty"` // empty: Classic
	// Go minor version: "1.19". The patch level floats
	Go       string    `json:"go,omitempty"`
	Base     string    `json:"base,omitempty"`     // image that it was built from
	Mode     Mode      `json:"mode"`               // how it builds
	Editions []Edition `json:"editions,omitempty"` // empty: Standard alone
	// there is a tag with the suffix -el7
	EL7 bool `json:"el7,omitempty"`
	// "ubuntu/xenial": gateway packages from the -el7 build alone
	EL7Distros []string `json:"el7_distros,omitempty"`
	// packages came from both builds: look at the installed binary
	EL7OrPlainDistros []string `json:"el7_or_plain_distros,omitempty"`
	// output is <name>_vX.Y.Z_<os>_<arch>.so, else the name as given
	Suffix bool `json:"suffix,omitempty"`
	// takes argument 2, the plugin id
	PluginID bool `json:"plugin_id,omitempty"`
	// takes arguments 3 and 4, GOOS and GOARCH
	PlatformArgs bool `json:"platform_args,omitempty"`
	CrossARM64   bool `json:"cross_arm64,omitempty"` // sets a C compiler for arm64
	// the same for s390x, in the standard edition alone
	CrossS390X bool `json:"cross_s390x,omitempty"`
	// switches it reads: GO_GET, GO_TIDY, DEBUG, BUILD_TAG
	Env []string `json:"env,omitempty"`
	// compiler and gateway build with -trimpath
	Trimpath    bool `json:"trimpath,omitempty"`
	GopluginTag bool `json:"goplugin_tag,omitempty"` // builds with -tags=goplugin
	// a plugin id renames the module; a missing go.mod is created
	RenamesModule bool `json:"renames_module,omitempty"`
	// the image holds no modules: needs a proxy, or a filled module cache
	FetchesModules bool `json:"fetches_modules,omitempty"`
	// the image carries /usr/local/bin/tyk
	Gateway bool `json:"gateway,omitempty"`
	// platforms that the image runs on; empty: linux/amd64 alone
	Hosts []string `json:"hosts,omitempty"`
	// plugins need no newer one; empty: as new as the base image's
	Glibc string `json:"glibc,omitempty"`
	// where these facts were read; empty: in the release's tag
	Source string `json:"source,omitempty"`
}

// Variant tells the two compiler images of a release apart.
type Variant string

// The variants. NextGen has the tag suffix -ng. It copies files with a leading dot,
// sets the go directive of the plugin's go.mod to its own Go, never renames the
// plugin's module, makes a missing go.mod, and checks what it has built.
const (
	Classic Variant = "classic"
	NextGen Variant = "ng"
)

// CreatesModule says whether the script makes a go.mod where the plugin has none.
func (c Compiler) CreatesModule() bool { return c.RenamesModule || c.Variant == NextGen }

// Platforms returns what the image runs on, such as "linux/amd64".
func (c Compiler) Platforms() []string {
	if len(c.Hosts) == 0 {
		return []string{"linux/amd64"}
	}
	return c.Hosts
}

// Crosses says whether the image has a C compiler for a processor of linux.
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

// WithVariant returns the release with that compiler as its Compiler. "" is the
// classic one, or the next-generation one where a release has no other. Errors match
// [ErrUnsupported].
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
		return none("there is none but the next-generation compiler (ng)")
	case NextGen:
		if r.Next == nil {
			return none("there is no next-generation compiler (ng) for it")
		}
		r.Compiler = *r.Next
	default:
		return Release{}, refuse("choose compiler", "of "+r.name(),
			"unknown variant %q (want classic or ng)", v)
	}
	return r, nil
}

// variant is "" if there is no compiler.
func (c Compiler) variant() Variant {
	if c.Variant == "" && c.Mode != "" {
		return Classic
	}
	return c.Variant
}

// Mode is how a compiler image builds a plugin.
type Mode string

// The ways in which compiler images have built plugins, oldest first.
const (
	// Vendor: the plugin's vendor directory is copied into GOPATH.
	Vendor Mode = "vendor"
	// GOPATH: the plugin's go.mod is deleted and the gateway's vendored
	// packages win over the plugin's.
	GOPATH Mode = "gopath"
	// Modules: neither vendoring nor a workspace; 5.0.2 alone, by mistake.
	Modules Mode = "modules"
	// Workspace: a go.work of the gateway and the plugin.
	Workspace Mode = "workspace"
)

// Edition tells the variants of one gateway release apart. A plugin loads into
// the edition that it was compiled for and into no other.
type Edition string

// The editions of compiler images.
const (
	Standard   Edition = "std"
	Enterprise Edition = "ee"   // from 5.7.0
	FIPS       Edition = "fips" // 5.8.14 and 5.8.15, and from 5.13.0
)

// Image returns the reference of the official compiler image, or an error
// when that release has no such edition or no -el7 variant.
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
		return "", fmt.Errorf("compiler image of %s: there is no edition %q, only %v", r.Version, e,
			r.editions())
	}
	if r.Compiler.Variant == NextGen {
		tag += "-ng"
	}
	if el7 {
		tag += "-el7"
		if !r.Compiler.EL7 {
			return "", fmt.Errorf("compiler image of %s: there is no -el7 variant", r.Version)
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

// Output returns the name of the file that the compiler writes when it is
// asked for name. Pre-release parts never reach the suffix: the script cuts
// v<major>.<minor>.<patch> out of the tag. It strips the last extension
// whatever that is.
func (r Release) Output(name, goos, goarch string) string {
	if !r.Compiler.Suffix {
		return name
	}
	return fmt.Sprintf("%s_v%d.%d.%d_%s_%s.so", strings.TrimSuffix(name, path.Ext(name)),
		r.Version.Major(), r.Version.Minor(), r.Version.Patch(), goos, goarch)
}

var (
	nameForm = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._-]*\.so$`)
	// suffixed is a name that already has what the compiler adds.
	suffixed = lazyregexp.New(`^(.+?)_v?[0-9]+\.[0-9]+\.[0-9]+[^/]*\.so$`)
)

// ValidateName refuses names that no gateway would find the plugin under: paths,
// other endings than .so, and, for releases whose compiler adds the version, names
// that have one already. Errors match [ErrRequest].
func (r Release) ValidateName(name string) error {
	if !nameForm.MatchString(name) {
		return refuse("name plugin", strconv.Quote(name), "want a plain file name of letters, digits, "+
			"dots, - and _ that ends in .so, such as plugin.so")
	}
	if m := suffixed.FindStringSubmatch(name); m != nil && r.Compiler.Suffix {
		return refuse("name plugin", strconv.Quote(name),
			"the compiler of %s adds version and platform itself, and gateways would look for %s; "+
				"name it %s.so",
			r.Version, r.Output(name, "linux", "amd64"), m[1])
	}
	return nil
}

// Tag returns the release's git tag.
func (r Release) Tag() string { return "v" + r.Version.String() }

// PseudoVersion returns the version under which a go.mod requires the release,
// or "" when the commit's date is not known. Every commit of 3.x to 5.x
// descends from tag v1.9.1, hence v1.9.2-0.
func (r Release) PseudoVersion() string {
	if r.Date.IsZero() || len(r.Commit) < 12 {
		return ""
	}
	return module.PseudoVersion("v1", "v1.9.1", r.Date, r.Commit[:12])
}

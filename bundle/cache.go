package bundle

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// DefaultMiddlewarePath is middleware_path in the tyk.conf of Tyk's packages.
const DefaultMiddlewarePath = "/opt/tyk-gateway/middleware"

// Cached is the place of a bundle on a gateway's disk.
type Cached struct {
	Name string `json:"name"` // of the bundle
	Dir  string `json:"dir"`  // where the gateway unpacks it; absolute
}

// listSince is the first release that reads a comma as a separator. It was read
// in the public repository before 5.15 was released.
var listSince = semver.New(5, 15, 0, "", "")

// Names returns the bundles that the value of custom_middleware_bundle names. A gateway before 5.15
// reads the whole value as one name, including commas. A nil gateway counts as one before 5.15.
func Names(gateway *semver.Version, value string) []string {
	if value == "" {
		return nil
	}
	if gateway == nil || release(gateway).LessThan(listSince) {
		return []string{value}
	}
	var names []string
	for _, name := range strings.Split(value, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// CacheDir returns the directories of the bundles that an API names in custom_middleware_bundle. It
// reads no disk. If the directory exists, the gateway uses it and downloads nothing. To make a
// gateway fetch the bundles again, stop it and remove exactly these directories.
//
// middlewarePath is middleware_path of the gateway's tyk.conf and must be absolute. If it is empty,
// [DefaultMiddlewarePath] is used. Only 3.0.0 to 3.2.2 and 4.0.0 use apiID, because they keep a
// copy for each API. Other releases keep one copy for all APIs with the same value. From 5.15 each
// bundle of a list has a directory below that of the whole value.
func CacheDir(gateway *semver.Version, middlewarePath, apiID, value string) ([]Cached, error) {
	fail := func(object, hint, format string, a ...any) ([]Cached, error) {
		return nil, &Error{Op: "find cached bundle", Object: object, Err: fmt.Errorf(format, a...),
			Next: hint}
	}
	if middlewarePath == "" {
		middlewarePath = DefaultMiddlewarePath
	}
	names := Names(gateway, value)
	switch {
	case gateway == nil:
		return fail(value, "give the version that the gateway's /hello reports",
			"no gateway version given")
	case !filepath.IsAbs(middlewarePath):
		return fail(middlewarePath, "join it to the gateway's working directory",
			"middleware_path is relative")
	case len(names) == 0:
		return fail("", "name the bundle as the API does", "no bundle named")
	}
	sum := md5.Sum([]byte(value))
	dir := hex.EncodeToString(sum[:])
	if cachesPerAPI(gateway) {
		if apiID == "" || apiID != path.Base(apiID) || apiID == ".." || apiID == "." {
			return fail(apiID, "give the api_id of the definition", "gateway %s keeps the bundle by API",
				gateway)
		}
		dir = apiID + "_" + dir
	}
	dir = filepath.Join(middlewarePath, "bundles", dir)
	if len(names) == 1 && names[0] == value {
		return []Cached{{value, dir}}, nil
	}
	var all []Cached
	for _, name := range names {
		sub := listDir(name)
		if sub == "." || sub == ".." {
			return fail(name, "rename the bundle", "the name leaves the cache directory")
		}
		all = append(all, Cached{name, filepath.Join(dir, sub)})
	}
	return all, nil
}

// cachesPerAPI was read in the tags 3.0.0 to 3.2.2 and 4.0.0.
func cachesPerAPI(gateway *semver.Version) bool {
	v := release(gateway)
	return v.LessThan(semver.New(3, 2, 3, "", "")) || v.Equal(semver.New(4, 0, 0, "", ""))
}

// listDir is the directory of one bundle of a list.
func listDir(name string) string {
	clean := strings.TrimSuffix(name, path.Ext(name))
	clean = strings.NewReplacer("/", "__", `\`, "__").Replace(clean)
	if clean == "" {
		sum := sha256.Sum256([]byte(name))
		return fmt.Sprintf("bundle_%x", sum[:6])
	}
	return clean
}

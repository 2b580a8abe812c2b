package bundle

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/Masterminds/semver/v3"
)

// Opens returns the plugin files that a gateway opens at its start from a bundle with this
// manifest. name is the bundle's name, and pluginPath reads the plugin path of a file in the
// bundle. If it is nil, the paths stay unknown. Opens omits hooks without a file, which
// [Manifest.Resolve] reports.
func (m *Manifest) Opens(name string, l Loader, pluginPath func(file string) (string,
	error)) ([]Open, error) {
	if m.Middleware.Driver != driverGo {
		return nil, nil
	}
	all, err := m.Resolve(l.Gateway, l.GOOS, l.GOARCH)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	var opens []Open
	seen := map[string]bool{"": true}
	for _, r := range all {
		if seen[r.File] {
			continue
		}
		seen[r.File] = true
		o := Open{Bundle: name, File: r.File}
		if pluginPath != nil {
			if o.PluginPath, err = pluginPath(r.File); err != nil {
				return nil, &Error{Op: "read plugin path", Object: o.String(), Err: err}
			}
		}
		opens = append(opens, o)
	}
	return opens, nil
}

// Enforces reports whether a gateway refuses a bundle with a wrong checksum or signature. Releases
// 5.0.12 to 5.0.x and those from 5.3.1 on do. Earlier releases and 5.1.0 to 5.3.0 log "Bundle
// verification failed" and load the bundle.
func Enforces(gateway *semver.Version) bool {
	v := release(gateway)
	return !v.LessThan(semver.New(5, 3, 1, "", "")) ||
		!v.LessThan(semver.New(5, 0, 12, "", "")) && v.LessThan(semver.New(5, 1, 0, "", ""))
}

// Acceptance predicts what a gateway does with a downloaded bundle.
type Acceptance struct {
	Gateway string `json:"gateway"`
	Bundle  string `json:"bundle"`
	Loads   bool   `json:"loads"`             // false: APIs that name it are not served
	Problem string `json:"problem,omitempty"` // what is wrong, even if the bundle loads
	Err     error  `json:"-"`                 // Problem as an error of this package
}

// Accept checks a bundle of size bytes at r and predicts what each release does with it. key is the
// key in the gateway's public_key_path, or nil if that is not set. An error means that the bundle
// cannot be read.
func Accept(name string, r io.ReaderAt, size int64, key *rsa.PublicKey,
	gateways ...*semver.Version) ([]Acceptance, error) {
	_, err := Verify(r, size, VerifyOptions{Key: key})
	var own *Error
	if errors.As(err, &own) && own.Retry {
		return nil, err
	}
	var all []Acceptance
	for _, v := range gateways {
		a := Acceptance{Gateway: v.String(), Bundle: name, Loads: err == nil, Err: err}
		if err != nil {
			a.Problem = err.Error()
			proof := errors.Is(err, ErrUnsigned) || errors.Is(err, ErrSignature) ||
				errors.Is(err, ErrChecksum)
			if proof && !Enforces(v) {
				a.Loads = true
				a.Problem = fmt.Sprintf("gateway %s only logs: %s", v, a.Problem)
			}
		}
		all = append(all, a)
	}
	return all, nil
}

// AcceptFile is [Accept] for the zip at path.
func AcceptFile(name, path string, key *rsa.PublicKey,
	gateways ...*semver.Version) ([]Acceptance, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Op: "open bundle", Object: path, Err: err, Retry: true}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &Error{Op: "open bundle", Object: path, Err: err, Retry: true}
	}
	return Accept(name, f, info.Size(), key, gateways...)
}

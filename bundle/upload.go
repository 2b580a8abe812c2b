package bundle

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"example.com/tykupgrade/internal/atomicfile"
)

// Upload replaces a bundle on a server that only the caller's own tool can write to. Publish
// downloads the old bundle first and keeps it in Dir until the upload is accepted or reverted.
// Every method may be called again, also after a kill -9.
//
// Use [Publication] for a directory on this machine.
type Upload struct {
	// URL is the gateways' bundle_base_url. Empty: the server is not checked, and no old bundle is
	// kept.
	URL  string
	Name string // the bundle's name in the APIs
	Dir  string // directory on this machine for the old bundle
	// Put uploads a file under a name. nil: somebody uploads the file by hand before Publish.
	Put   func(ctx context.Context, file, name string) error
	Fetch FetchOptions
}

// Kept returns the path of the old bundle. The file exists from Publish until Accept or Revert.
func (u Upload) Kept() string { return filepath.Join(u.Dir, u.Name+".before-upgrade") }

// none is the path of a file that records that the server had no old bundle.
func (u Upload) none() string { return u.Kept() + ".none" }

// At returns the address of the bundle, or an empty string without a URL.
func (u Upload) At() (string, error) {
	if u.URL == "" {
		return "", nil
	}
	base, err := url.Parse(u.URL)
	if err != nil || base.Host == "" {
		return "", &Error{Op: "publish bundle", Object: u.Name,
			Err:  errors.New("bad URL of the bundle server"),
			Next: "give one such as https://bundles.example.com/"}
	}
	return base.JoinPath(u.Name).String(), nil
}

// Redacted returns the address without user, password and query. It is empty without a URL.
func (u Upload) Redacted() string {
	at, err := u.At()
	if err != nil || at == "" {
		return ""
	}
	return redacted(at)
}

// Publish keeps the old bundle, uploads file and then downloads it from the server. If the server
// does not serve exactly file, the error is of kind [ErrServer]. A later call keeps the first old
// bundle.
func (u Upload) Publish(ctx context.Context, file string) error {
	at, err := u.At()
	if err != nil {
		return err
	}
	want, err := DigestFile(file)
	if err != nil {
		return err
	}
	if u.Put != nil {
		if at != "" {
			if err := u.keep(ctx, at); err != nil {
				return err
			}
		}
		if err := u.Put(ctx, file, u.Name); err != nil {
			return &Error{Op: "publish bundle", Object: u.Name, Err: err, Retry: true}
		}
	}
	if at == "" {
		return nil
	}
	return Served(ctx, at, want, u.Fetch)
}

// keep downloads the old bundle once. The file that an earlier call kept is the old bundle.
func (u Upload) keep(ctx context.Context, at string) error {
	for _, path := range []string{u.Kept(), u.none()} {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
	}
	_, err := Fetch(ctx, at, u.Kept(), u.Fetch)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = atomicfile.Write(ctx, u.none(), atomicfile.Options{Mode: 0o644, NoDigest: true},
			func(io.Writer) error { return nil })
	}
	if err != nil {
		own := new(Error)
		return &Error{Op: "keep old bundle", Object: u.Name, Err: err,
			Next: "check the URL of the bundle server", Retry: errors.As(err, &own) && own.Retry}
	}
	return nil
}

// Revert uploads the old bundle again, downloads it from the server, and removes the local copy. If
// the server does not serve exactly the old bundle, the error is of kind [ErrServer] and the copy
// stays. If the server had no bundle before, or without Publish, Revert changes nothing on the
// server.
func (u Upload) Revert(ctx context.Context) error {
	if _, err := os.Lstat(u.Kept()); err == nil && u.Put != nil {
		at, err := u.At()
		if err != nil {
			return err
		}
		old, err := DigestFile(u.Kept())
		if err != nil {
			return &Error{Op: "publish old bundle", Object: u.Name, Err: err, Retry: true}
		}
		if err := u.Put(ctx, u.Kept(), u.Name); err != nil {
			return &Error{Op: "publish old bundle", Object: u.Name, Err: err, Retry: true}
		}
		if at != "" {
			if err := Served(ctx, at, old, u.Fetch); err != nil {
				return err
			}
		}
	}
	return u.Accept(ctx)
}

// Accept removes the local copy of the old bundle; a revert is then no longer possible.
func (u Upload) Accept(context.Context) error {
	for _, path := range []string{u.Kept(), u.none()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &Error{Op: "remove old bundle", Object: path, Err: err, Retry: true}
		}
	}
	return nil
}

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

// Upload is a bundle that takes the place of another one on a server that only the caller's
// own tool can write to. The old file is downloaded first and kept in Dir until the upload is
// accepted or reverted. Every method may be repeated, also after kill -9.
//
// Use [Publication] for a directory on this machine.
type Upload struct {
	// the gateways' bundle_base_url; empty: the server is not asked, and no old file is kept
	URL  string
	Name string // as the APIs have it
	Dir  string // on this machine, for the old file
	// Put uploads a file under a name. Nil: somebody does it by hand before Publish.
	Put   func(ctx context.Context, file, name string) error
	Fetch FetchOptions
}

// Kept is the path of the old bundle while the upload is neither accepted nor reverted.
func (u Upload) Kept() string { return filepath.Join(u.Dir, u.Name+".before-upgrade") }

// none says that the server had no such file before.
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

// Redacted is the address without user, password and query, for people.
func (u Upload) Redacted() string {
	at, err := u.At()
	if err != nil || at == "" {
		return ""
	}
	return redacted(at)
}

// Publish keeps the old file, uploads file and waits for nothing: after it the server serves
// exactly file, or the error is of kind [ErrServer].
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

// keep downloads what the server has, once: what an earlier call kept is the old file.
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

// Revert uploads the old file again and forgets it. Where the server had no file, or Publish
// was never called, it changes nothing on the server.
func (u Upload) Revert(ctx context.Context) error {
	if _, err := os.Lstat(u.Kept()); err == nil && u.Put != nil {
		if err := u.Put(ctx, u.Kept(), u.Name); err != nil {
			return &Error{Op: "publish old bundle", Object: u.Name, Err: err, Retry: true}
		}
	}
	return u.Accept(ctx)
}

// Accept removes the old file.
func (u Upload) Accept(context.Context) error {
	for _, path := range []string{u.Kept(), u.none()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &Error{Op: "remove old bundle", Object: path, Err: err, Retry: true}
		}
	}
	return nil
}

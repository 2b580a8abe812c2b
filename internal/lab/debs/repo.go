package debs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Repo is a signed flat apt repository: a directory of .deb files with its
// indexes. It can be served as file:, or over HTTP by any file server.
type Repo struct {
	Dir     string // the repository; holds key.gpg too
	KeyFile string // the public key, for signed-by=

	key *key
}

// NewRepo creates an empty repository in dir, which has no indexes until
// [Repo.Add]. The repositories of a process share a key. [Repo.Close] of the last
// one ends the key's agent.
func NewRepo(dir string) (*Repo, error) { return newRepo(dir, &shared) }

// NewForeignRepo creates a repository with a key of its own, which verifies
// nothing of the others.
func NewForeignRepo(dir string) (*Repo, error) { return newRepo(dir, &key{}) }

func newRepo(dir string, k *key) (*Repo, error) {
	if err := k.open(); err != nil {
		return nil, err
	}
	r := &Repo{Dir: dir, KeyFile: filepath.Join(dir, "key.gpg"), key: k}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		_ = r.Close()
		return nil, err
	}
	if err := os.WriteFile(r.KeyFile, k.public, 0o644); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// key is a signing key, which takes gpg about a second to make.
type key struct {
	mu     sync.Mutex
	users  int
	home   string
	public []byte
}

var shared key

func (k *key) open() (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.users > 0 {
		k.users++
		return nil
	}
	// gpg's agent listens on a socket in its home, whose path must be short.
	if k.home, err = os.MkdirTemp("", "gpg-"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = k.end()
		}
	}()
	if _, err := k.gpg("--passphrase", "", "--quick-generate-key", "Lab <lab@example.com>", "ed25519",
		"sign", "never"); err != nil {
		return err
	}
	if k.public, err = k.gpg("--export"); err != nil {
		return err
	}
	k.users = 1
	return nil
}

func (k *key) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.users--; k.users > 0 {
		return nil
	}
	return k.end()
}

func (k *key) end() error {
	_, err := commandIn("", []string{"GNUPGHOME=" + k.home}, "gpgconf", "--kill", "gpg-agent")
	if rm := os.RemoveAll(k.home); err == nil {
		err = rm
	}
	return err
}

func (k *key) gpg(args ...string) ([]byte, error) {
	return commandIn("", nil, append([]string{"gpg", "--homedir", k.home, "--batch", "--quiet",
		"--no-tty"}, args...)...)
}

// Add builds the packages into the repository and publishes its indexes. It
// returns the paths of the .deb files.
func (r *Repo) Add(packages ...Package) ([]string, error) {
	var paths []string
	for _, p := range packages {
		path, err := p.Build(r.Dir)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, r.Publish()
}

// Publish writes Packages, Release and the signatures from what Dir holds, for
// instance after a .deb was taken away.
func (r *Repo) Publish() error {
	packages, err := commandIn(r.Dir, nil, "apt-ftparchive", "packages", ".")
	if err != nil {
		return err
	}
	if err := r.write("Packages", packages); err != nil {
		return err
	}
	for _, name := range []string{"Release", "InRelease", "Release.gpg"} {
		if err := os.Remove(filepath.Join(r.Dir, name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	release, err := commandIn(r.Dir, nil, "apt-ftparchive", "-o",
		"APT::FTPArchive::Release::Origin=Lab",
		"-o", "APT::FTPArchive::Release::Suite=stable", "release", ".")
	if err != nil {
		return err
	}
	if err := r.write("Release", release); err != nil {
		return err
	}
	return r.Sign()
}

// Sign signs Release as it is.
func (r *Repo) Sign() error {
	_, err := r.key.gpg("--yes", "--clearsign", "--output", filepath.Join(r.Dir, "InRelease"),
		filepath.Join(r.Dir, "Release"))
	return err
}

// List is the content of a sources.list.d file for the repository at uri,
// "file:/dir" or "http://host:port".
func (r *Repo) List(uri, keyFile string) string {
	return fmt.Sprintf("deb [signed-by=%s] %s ./\n", keyFile, uri)
}

// listName is the name that apt gives what it has fetched from the directory of a repository
// at file:dir, without the name of the file.
func listName(dir string) string {
	var b strings.Builder
	for _, c := range []byte(dir + "/./") {
		switch {
		case c == '/':
			b.WriteByte('_')
		case c <= ' ' || c >= 127 || strings.IndexByte("\\|{}[]<>\"^~_=!@#$%&*", c) >= 0:
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Lists puts into the directory what apt keeps of the repository, which it finds at file:dir,
// after an update. It takes apt twenty processes and more. No signature is looked at.
func (r *Repo) Lists(to, dir string) error {
	name := filepath.Join(to, listName(dir))
	release, err := os.ReadFile(filepath.Join(r.Dir, "InRelease"))
	if err != nil {
		return err
	}
	// apt fetches a file again only if its time differs, which is in seconds.
	old := time.Now().Add(-time.Hour)
	if err := errors.Join(os.WriteFile(name+"InRelease", release, 0o644),
		os.Chtimes(name+"InRelease", old, old)); err != nil {
		return err
	}
	if err := os.Remove(name + "Packages"); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(dir+"/./Packages", name+"Packages")
}

// Close gives the key back. The repository stays. It may be called twice.
func (r *Repo) Close() error {
	if r.key == nil {
		return nil
	}
	k := r.key
	r.key = nil
	return k.close()
}

// write replaces the file in one step, so that a reader sees whole indexes.
func (r *Repo) write(name string, data []byte) error {
	tmp := filepath.Join(r.Dir, "."+name)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(r.Dir, name))
}

package debs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Repo is a signed flat apt repository: a directory of .deb files with its
// indexes. It can be served as file:, or over HTTP by any file server.
type Repo struct {
	Dir     string // the repository; holds key.gpg too
	KeyFile string // the public key, for signed-by=
	KeyID   string // its fingerprint

	home string
}

// NewRepo creates an empty repository in dir with a signing key of its own.
// [Repo.Close] ends the key's agent.
func NewRepo(dir string) (_ *Repo, err error) {
	// gpg's agent listens on a socket in its home, whose path must be short.
	home, err := os.MkdirTemp("", "gpg-")
	if err != nil {
		return nil, err
	}
	r := &Repo{Dir: dir, KeyFile: filepath.Join(dir, "key.gpg"), home: home}
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := r.gpg("--passphrase", "", "--quick-generate-key", "Lab <lab@example.com>", "ed25519", "sign", "never"); err != nil {
		return nil, err
	}
	out, err := r.gpg("--with-colons", "--list-keys")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Split(line, ":"); f[0] == "fpr" && len(f) > 9 && r.KeyID == "" {
			r.KeyID = f[9]
		}
	}
	if _, err := r.gpg("--output", r.KeyFile, "--export"); err != nil {
		return nil, err
	}
	return r, r.Publish()
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
	release, err := commandIn(r.Dir, nil, "apt-ftparchive", "-o", "APT::FTPArchive::Release::Origin=Lab",
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
	_, err := r.gpg("--yes", "--clearsign", "--output", filepath.Join(r.Dir, "InRelease"), filepath.Join(r.Dir, "Release"))
	return err
}

// List is the content of a sources.list.d file for the repository at uri,
// "file:/dir" or "http://host:port".
func (r *Repo) List(uri, keyFile string) string {
	return fmt.Sprintf("deb [signed-by=%s] %s ./\n", keyFile, uri)
}

// Close ends the agent and removes the key. The repository stays.
func (r *Repo) Close() error {
	_, err := commandIn("", []string{"GNUPGHOME=" + r.home}, "gpgconf", "--kill", "gpg-agent")
	if rm := os.RemoveAll(r.home); err == nil {
		err = rm
	}
	return err
}

// write replaces the file in one step, so that a reader sees whole indexes.
func (r *Repo) write(name string, data []byte) error {
	tmp := filepath.Join(r.Dir, "."+name)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(r.Dir, name))
}

func (r *Repo) gpg(args ...string) ([]byte, error) {
	return commandIn("", nil, append([]string{"gpg", "--homedir", r.home, "--batch", "--quiet", "--no-tty"}, args...)...)
}

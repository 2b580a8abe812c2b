package debs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Root is a private root for apt and dpkg: commands that have APT_CONFIG set
// to AptConfig work in Dir only, as whatever user they run.
type Root struct {
	Dir       string
	AptConfig string

	repos []*Repo
}

// NewRoot creates a private root in dir, which must be empty or absent, with
// the given repositories as its only sources.
func NewRoot(dir string, repos ...*Repo) (*Root, error) {
	for _, d := range []string{
		"etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d",
		"var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers", "var/lib/dpkg/parts",
		"var/lib/apt/lists/partial", "var/lib/apt/periodic", "var/cache/apt/archives/partial",
		"var/log/apt", "tmp", "usr/bin", "usr/sbin", "usr/lib",
	} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"bin", "sbin", "lib"} { // /usr is merged, as on Debian since 12
		if err := os.Symlink("usr/"+d, filepath.Join(dir, d)); err != nil {
			return nil, err
		}
	}
	r := &Root{Dir: dir, AptConfig: filepath.Join(dir, "etc/apt/private.conf"), repos: repos}
	files := map[string]string{
		"etc/apt/private.conf": config(dir),
		"etc/debian_version":   "12.0\n",
		"etc/os-release": "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian " +
			"GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n",
		"var/lib/dpkg/status": "",
		// Selections need it up to dpkg 1.19 (Ubuntu 20.04).
		"var/lib/dpkg/available": "",
	}
	for i, repo := range repos {
		files[fmt.Sprintf("etc/apt/sources.list.d/lab%d.list", i)] = repo.List("file:"+repo.Dir,
			repo.KeyFile)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func config(dir string) string {
	return fmt.Sprintf(`Dir "%[1]s/";
Dir::State::status "%[1]s/var/lib/dpkg/status";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Bin::solvers:: "/usr/lib/apt/solvers";
Dir::Bin::planners:: "/usr/lib/apt/planners";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "0";
APT::Cache-HashTableSize "1009";
Dir::Log::Planner "/dev/null";
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Update::Post-Invoke-Success;
DPkg::Options { "--root=%[1]s"; "--force-not-root"; "--force-script-chrootless"; "--force-unsafe-io"; "--log=%[1]s/var/log/dpkg.log"; };
`, dir, Arch())
}

// Update leaves in the root what `apt-get update` does for the repositories of [NewRoot]: see
// [Repo.Lists].
func (r *Root) Update() error {
	lists := filepath.Join(r.Dir, "var/lib/apt/lists")
	for _, repo := range r.repos {
		if err := repo.Lists(lists, repo.Dir); err != nil {
			return err
		}
	}
	return nil
}

// Fetched leaves in apt's cache what it has of a source on another machine, once it has fetched
// all packages. Without it each run of apt looks for them in the repository.
func (r *Root) Fetched() error {
	for _, repo := range r.repos {
		list, err := filepath.Glob(filepath.Join(repo.Dir, "*.deb"))
		if err != nil {
			return err
		}
		for _, deb := range list {
			data, err := os.ReadFile(deb)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(r.Dir, "var/cache/apt/archives", filepath.Base(deb)), data,
				0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// Copy makes a private root in dir, which must be absent, with all that r holds and the same
// repositories.
func (r *Root) Copy(dir string) (*Root, error) {
	err := filepath.WalkDir(r.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, r.Dir))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return errors.Join(os.Mkdir(to, 0o700), os.Chmod(to, info.Mode().Perm()))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		case filepath.Ext(path) == ".bin": // apt's own caches, which name the directory
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(to, data, 0o600), os.Chmod(to, info.Mode().Perm()),
			os.Chtimes(to, info.ModTime(), info.ModTime()))
	})
	c := &Root{Dir: dir, AptConfig: filepath.Join(dir, "etc/apt/private.conf"), repos: r.repos}
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(c.AptConfig, []byte(config(dir)), 0o644)
}

package host

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"syscall"

	"example.com/tykupgrade/internal/lab/debs"
)

//go:embed image.sh
var recipe string

// Image returns the name of the image of a suite, and makes it where docker
// does not have it. Several processes may call it at once: one makes it, the
// others wait. That needs root, for debootstrap.
func Image(ctx context.Context, suite string) (string, error) {
	if suite == "" {
		suite = "bookworm"
	}
	sum := sha256.Sum256([]byte(suite + debs.Arch() + recipe))
	image := "tykupgrade-lab-host:" + suite + "-" + hex.EncodeToString(sum[:6])
	if have(ctx, image) {
		return image, nil
	}
	// Its own file is what two makers of an image cannot miss, and leaves no
	// lock file behind.
	lock, err := os.Open("/usr/sbin/debootstrap")
	if err != nil {
		return "", fmt.Errorf("make the host image: %w (Debian package debootstrap)", err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if have(ctx, image) {
		return image, nil
	}
	dir, err := os.MkdirTemp("", "lab-host-image-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// debootstrap mounts /proc in the root. In a namespace of its own nothing stays mounted, and
	// nothing of this machine is below a directory that is removed, when it is killed.
	_, err = run(ctx, strings.NewReader(recipe), "unshare", "--mount", "sh", "-s", suite, dir, image)
	return image, err
}

// NoSuite says whether Image failed because this machine's debootstrap, or the mirror that
// it uses, does not know the suite.
func NoSuite(err error) bool {
	for _, text := range []string{"Failed getting release file", "Couldn't download",
		"No such script"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func have(ctx context.Context, image string) bool {
	_, err := output(ctx, "docker", "image", "inspect", image)
	return err == nil
}

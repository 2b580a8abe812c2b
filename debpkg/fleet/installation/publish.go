package installation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/tykversion"
)

// bundleSteps publish a bundle and, if its name is new, name it in the APIs.
func (u *Upgrade) bundleSteps(b Bundle) []rollout.Step {
	steps := []rollout.Step{{Name: "publish",
		Do:   func(ctx context.Context) error { return u.publish(ctx, b) },
		Undo: func(ctx context.Context) error { return u.unpublish(ctx, b) }}}
	switch {
	case len(u.Switch.Rename) > 0:
		rename := func(from, to string) func(context.Context) error {
			return func(ctx context.Context) error {
				return runCommand(ctx, u.Switch.Rename, map[string]string{"{from}": from, "{to}": to})
			}
		}
		steps = append(steps, rollout.Step{Name: "rename", Do: rename(b.Name, b.New), Undo: rename(b.New,
			b.Name)})
	case u.APIs != nil && (u.Switch.Mode == bundle.UniquePath || u.Switch.Mode == bundle.NewName):
		steps = append(steps, rollout.Step{Name: "rename", Timeout: time.Hour,
			Do:   func(ctx context.Context) error { return u.rename(ctx, b) },
			Undo: func(ctx context.Context) error { return u.renameBack(ctx, b) }})
	}
	return steps
}

// unpublished returns an error if nothing shows whether gateways get the bundle.
func (u *Upgrade) unpublished() error {
	if b := u.Plugin.Bundle; b.Serve == "" && b.URL == "" {
		return errors.New("unknown whether the bundle server has the bundle; set " +
			"plugin.bundle.url, or the served directory as plugin.bundle.serve")
	}
	return nil
}

// publication is a bundle server's directory on this machine.
func (u *Upgrade) publication(b Bundle) bundle.Publication {
	abs, _ := filepath.Abs(u.Journal)
	sum := sha256.Sum256([]byte(abs))
	return bundle.Publication{Dir: u.Plugin.Bundle.Serve, Name: u.publishedName(b),
		Run: hex.EncodeToString(sum[:8])}
}

// upload is a bundle server that a command, or somebody, publishes to.
func (u *Upgrade) upload(b Bundle) bundle.Upload {
	s := u.Plugin.Bundle
	up := bundle.Upload{URL: s.URL, Name: u.publishedName(b), Dir: s.Dir}
	if len(s.Publish) > 0 {
		up.Put = func(ctx context.Context, file, name string) error {
			return runCommand(ctx, s.Publish, map[string]string{"{file}": file, "{name}": name})
		}
	}
	return up
}

// publish puts the bundle on its server and keeps the old file until the run is accepted. Running
// gateways keep serving from their caches.
func (u *Upgrade) publish(ctx context.Context, b Bundle) error {
	u.mu.Lock()
	written := u.written[b.Name]
	u.mu.Unlock()
	up := u.upload(b)
	note := publishNote{Name: up.Name, URL: up.Redacted()}
	key, err := u.verifyKey()
	if err != nil {
		return err
	}
	if u.Plugin.Bundle.Serve != "" {
		p := u.publication(b)
		p.Key = key
		if _, err := p.Publish(ctx, written.File); err != nil {
			return unsigned(err, written.File)
		}
		up.Put = nil
	} else if key != nil {
		if err := bundle.VerifyFile(written.File, key); err != nil {
			return unsigned(err, written.File)
		}
	}
	if err := up.Publish(ctx, written.File); err != nil {
		if errors.Is(err, bundle.ErrServer) {
			return fmt.Errorf("%w; upload %s under the name %s, keep the old file, and resume", err,
				written.File, up.Name)
		}
		return err
	}
	if u.Plugin.Bundle.Serve == "" && up.URL == "" {
		note.Overridden = overridden(CheckPublish, u.unpublished())
	}
	return rollout.Save(ctx, note)
}

// unsigned adds to an error how to sign the bundle.
func unsigned(err error, file string) error {
	if errors.Is(err, bundle.ErrUnsigned) || errors.Is(err, bundle.ErrSignature) {
		return fmt.Errorf("%w; with the key of plugin.bundle.verify_key: openssl dgst -sha256 -sign KEY "+
			"%s | base64 -w0 >%[2]s%s, then resume", err, file, bundle.SignatureSuffix)
	}
	return err
}

// unpublish serves the old bundle again, after the hosts are reverted. If this program did not keep
// the old file, the operator restores it.
func (u *Upgrade) unpublish(ctx context.Context, b Bundle) error {
	if u.Plugin.Bundle.Serve != "" {
		return u.publication(b).Revert(ctx)
	}
	return u.upload(b).Revert(ctx)
}

// acceptBundle removes what a revert of the bundle needs.
func (u *Upgrade) acceptBundle(ctx context.Context, b Bundle) error {
	errs := []error{u.upload(b).Accept(ctx)}
	if _, err := os.Lstat(u.apisJournal(b)); err == nil {
		errs = append(errs, apidef.Accept(u.apisJournal(b)))
	}
	if u.Plugin.Bundle.Serve != "" {
		errs = append(errs, u.publication(b).Accept(ctx))
	}
	return errors.Join(errs...)
}

// runCommand runs a command of the file.
func runCommand(ctx context.Context, argv []string, words map[string]string) error {
	var out strings.Builder
	filled := make([]string, len(argv))
	for i, arg := range argv {
		for word, value := range words {
			arg = strings.ReplaceAll(arg, word, value)
		}
		filled[i] = arg
	}
	if err := debpkg.Local()(ctx, filled, nil, nil, &out); err != nil {
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("%s: %w: %s", filled[0], err, text[max(0, len(text)-2000):])
	}
	return nil
}

// swap makes a gateway host fetch the bundles again while its service is stopped.
func (u *Upgrade) swap(h fleet.Host) *fleet.Swap {
	return &fleet.Swap{Runner: u.Runner(h), Config: u.Switch.Config, Caches: func(config []byte, from,
		to debpkg.Version) ([]string, error) {
		var gateways []*semver.Version
		for _, version := range []debpkg.Version{from, to} {
			if version.IsZero() {
				continue
			}
			v, err := tykversion.Parse(version.String())
			if err != nil {
				return nil, err
			}
			gateways = append(gateways, v)
		}
		var names []string
		for _, b := range u.bundles() {
			names = append(names, b.Name)
		}
		apis, err := u.apiIDs(names)
		if err != nil {
			return nil, err
		}
		return bundle.CacheDirs(config, names, apis, gateways...)
	}}
}

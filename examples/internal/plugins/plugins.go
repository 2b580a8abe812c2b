// Package plugins is what the example commands share about compiled plugins:
// the gateway binary that a plugin is to be loaded in, wherever it comes from,
// and what a manifest asks of a plugin.
package plugins

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// DebMember is where the gateway's packages and images have its binary.
const DebMember = "/opt/tyk-gateway/tyk"

// compilerMember is where compiler images from 5.2.3 on have it.
const compilerMember = "/usr/local/bin/tyk"

// Gateway inspects the binary at path, or that in a package or a tar: member
// names it there; empty: [DebMember] of a package, the first file of a tar.
func Gateway(ctx context.Context, path, member string) (*preflight.Binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// A pipe may never end; closing it ends the read.
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	defer stop()
	in := bufio.NewReader(f)
	head, _ := in.Peek(263) // a short file is another kind
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var b *preflight.Binary
	switch {
	case bytes.HasPrefix(head, []byte("!<arch>\n")):
		if member == "" {
			member = DebMember
		}
		b, err = preflight.InspectDeb(in, member)
	case len(head) == 263 && string(head[257:262]) == "ustar":
		b, err = preflight.InspectTar(in, member)
	default:
		return preflight.Inspect(path)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// FromImage inspects the binary in an image that the engine has: one of the
// gateway, or of a plugin compiler. Nothing in it is run.
func FromImage(ctx context.Context, engine *client.Client, ref string) (*preflight.Binary, error) {
	created, err := engine.ContainerCreate(ctx, &container.Config{Image: ref, Entrypoint: []string{DebMember}, Labels: map[string]string{compiler.LabelKind: "inspect"}}, nil, nil, nil, "")
	if err != nil {
		return nil, fmt.Errorf("inspect the gateway in image %s: %w; is it there (docker pull)?", ref, err)
	}
	defer func() {
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer stop()
		_ = engine.ContainerRemove(clean, created.ID, container.RemoveOptions{Force: true})
	}()
	var errs []error
	for _, member := range []string{DebMember, compilerMember} {
		tar, _, err := engine.CopyFromContainer(ctx, created.ID, member)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b, err := preflight.InspectTar(tar, "")
		return b, errors.Join(err, tar.Close())
	}
	return nil, fmt.Errorf("inspect the gateway in image %s: it has neither %s: %w", ref, strings.Join([]string{DebMember, compilerMember}, " nor "), errors.Join(errs...))
}

// Symbols lists the functions that a manifest names. The gateway takes the
// analytics hook from its configuration, not from a manifest.
func Symbols(m *bundle.Manifest) ([]preflight.Symbol, error) {
	mw := m.Middleware
	if mw.Driver != "goplugin" {
		return nil, fmt.Errorf("the manifest's driver is %q, so that it names no Go plugin; give one with driver goplugin", mw.Driver)
	}
	var all []preflight.Symbol
	add := func(kind preflight.Hook, hooks ...bundle.Hook) {
		for _, h := range hooks {
			if h.Name != "" && h.Path != "" && !h.Disabled {
				all = append(all, preflight.Symbol{File: h.Path, Name: h.Name, Hook: kind})
			}
		}
	}
	add(preflight.HookRequest, mw.Pre...)
	add(preflight.HookRequest, mw.AuthCheck)
	add(preflight.HookRequest, mw.PostKeyAuth...)
	add(preflight.HookRequest, mw.Post...)
	add(preflight.HookResponse, mw.Response...)
	return all, nil
}

// Package plugins is what the example commands share about compiled plugins:
// the gateway binary that a plugin is to be loaded in, wherever it comes from,
// and what a manifest asks of a plugin.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// compilerMember is where compiler images from 5.2.3 on have it.
const compilerMember = "/usr/local/bin/tyk"

// FromImage inspects the binary in an image that the engine has: one of the
// gateway, or of a plugin compiler. Nothing in it is run.
func FromImage(ctx context.Context, engine *client.Client, ref string) (*preflight.Binary, error) {
	created, err := engine.ContainerCreate(ctx, &container.Config{Image: ref, Entrypoint: []string{preflight.GatewayFile}, Labels: map[string]string{compiler.LabelKind: "inspect"}}, nil, nil, nil, "")
	if err != nil {
		return nil, fmt.Errorf("inspect the gateway in image %s: %w; is it there (docker pull)?", ref, err)
	}
	defer func() {
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer stop()
		_ = engine.ContainerRemove(clean, created.ID, container.RemoveOptions{Force: true})
	}()
	var errs []error
	for _, member := range []string{preflight.GatewayFile, compilerMember} {
		tar, _, err := engine.CopyFromContainer(ctx, created.ID, member)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b, err := preflight.InspectTar(tar, "")
		return b, errors.Join(err, tar.Close())
	}
	return nil, fmt.Errorf("inspect the gateway in image %s: it has neither %s: %w", ref, strings.Join([]string{preflight.GatewayFile, compilerMember}, " nor "), errors.Join(errs...))
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

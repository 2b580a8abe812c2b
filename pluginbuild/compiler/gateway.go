package compiler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
)

// gatewayMembers are the paths of the gateway's binary in images of the gateway and in compiler
// images from 5.2.3 on.
var gatewayMembers = []string{"/opt/tyk-gateway/tyk", "/usr/local/bin/tyk"}

// Gateway returns a tar with the gateway's binary from an image of the gateway or of the plugin
// compiler. The engine must have the image; otherwise the error wraps [ErrNoImage]. Gateway creates
// a container but runs nothing. Closing the tar removes the container. [Builder.Sweep] removes one
// that a killed process left.
func Gateway(ctx context.Context, c *client.Client, ref string) (io.ReadCloser, error) {
	return gateway(ctx, docker{c}, ref)
}

func gateway(ctx context.Context, e engine, ref string) (io.ReadCloser, error) {
	const op = "read gateway"
	b := newBuilder(e, Options{})
	id := strings.ToLower("tykupgrade-inspect-" + b.run[:8] + "-" + rand.Text()[:8])
	remove := func() error { return b.removeContainer(context.WithoutCancel(ctx), id) }
	create, stop := lasting(ctx, cleanupTime) // see runJob
	_, _, err := e.create(create, &creation{name: id, image: ref, entrypoint: gatewayMembers[:1],
		labels: b.labels("inspect", nil), limits: Limits{Network: "none"}})
	stop()
	if err != nil {
		failed := fail(ctx, op, "image "+ref, err)
		if errdefs.IsNotFound(err) {
			failed.Kind, failed.Next = ErrNoImage, "pull it, or load it from a file (docker load)"
		}
		return nil, join(failed, remove())
	}
	var errs []error
	for _, member := range gatewayMembers {
		tar, err := e.get(ctx, id, member)
		if err == nil {
			return &removing{tar, remove}, nil
		}
		errs = append(errs, err)
	}
	err = fmt.Errorf("the image has neither %s: %w", strings.Join(gatewayMembers, " nor "),
		errors.Join(errs...))
	return nil, join(fail(ctx, op, "image "+ref, err), remove())
}

// removing removes its container on Close.
type removing struct {
	io.ReadCloser
	remove func() error
}

// Close ends the tar and removes the container.
func (r *removing) Close() error { return errors.Join(r.ReadCloser.Close(), r.remove()) }

package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

// gatewayMembers are where images have the gateway's binary: those of the gateway, and
// compiler images from 5.2.3 on.
var gatewayMembers = []string{"/opt/tyk-gateway/tyk", "/usr/local/bin/tyk"}

// Gateway returns a tar with the gateway's binary of an image that the engine has: one of the
// gateway, or of the plugin compiler. Nothing in the image is run. Close the tar; the engine
// then removes the container that it came from.
func Gateway(ctx context.Context, c *client.Client, ref string) (io.ReadCloser, error) {
	const op = "read gateway"
	created, err := c.ContainerCreate(ctx, &container.Config{Image: ref,
		Entrypoint: gatewayMembers[:1],
		Labels:     map[string]string{LabelKind: "inspect"}}, nil, nil, nil, "")
	if err != nil {
		return nil, &Error{Op: op, Object: "image " + ref,
			Err: fmt.Errorf("%w; is it there (docker pull)?", err)}
	}
	remove := func() error {
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer stop()
		return c.ContainerRemove(clean, created.ID, container.RemoveOptions{Force: true})
	}
	var errs []error
	for _, member := range gatewayMembers {
		tar, _, err := c.CopyFromContainer(ctx, created.ID, member)
		if err == nil {
			return &removing{tar, remove}, nil
		}
		errs = append(errs, err)
	}
	err = fmt.Errorf("it has neither %s: %w", strings.Join(gatewayMembers, " nor "),
		errors.Join(errs...))
	return nil, errors.Join(&Error{Op: op, Object: "image " + ref, Err: err}, remove())
}

// removing removes its container when it is closed.
type removing struct {
	io.ReadCloser
	remove func() error
}

// Close ends the tar and removes the container.
func (r *removing) Close() error { return errors.Join(r.ReadCloser.Close(), r.remove()) }

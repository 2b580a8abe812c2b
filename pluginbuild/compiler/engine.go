package compiler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// engine is a build's interface to a container engine. Its errors keep their kinds of
// github.com/containerd/errdefs. Only this file and connect.go use the Docker client.
//
// Its nine methods cover 20 of the client. They keep the stages separate that a build reports.
type engine interface {
	// hello connects to the engine. It returns the address even with an error; "": unknown.
	hello(ctx context.Context) (about, error)
	// image finds an image by name or ID. It returns nil if the engine lacks it.
	image(ctx context.Context, ref, platform string) (*picture, error)
	// bring pulls an image, or loads it if tar is not nil.
	bring(ctx context.Context, s source, report func(Event)) error
	// create makes the volumes that a container mounts, then the container.
	create(ctx context.Context, c *creation) (id string, warnings []string, err error)
	// run starts a container and waits for its end and all its output, or for ctx.
	run(ctx context.Context, id string, stdout, stderr io.Writer) (exit, error)
	put(ctx context.Context, id string, tar io.Reader) error
	get(ctx context.Context, id, path string) (io.ReadCloser, error)
	// list returns the objects with our label and all of labels.
	list(ctx context.Context, k kind, labels map[string]string) ([]thing, error)
	// remove removes a container with its anonymous volumes. It does not remove volumes and
	// images in use.
	remove(ctx context.Context, k kind, id string) error
}

// about is an engine's address and its own platform.
type about struct {
	address  string
	platform string // "linux/amd64"
}

// kind is a kind of objects for list and remove.
type kind string

const (
	containers kind = "container"
	volumes    kind = "volume"
	images     kind = "image"
)

// picture is an image in an engine.
type picture struct {
	ID       string
	Digests  []string // "name@sha256:…"
	Platform string   // "linux/amd64"
	Env      []string
}

// source is the source of an image.
type source struct {
	ref, platform string
	auth          Credentials
	tar           io.Reader // in the format of docker save
}

// creation describes a container to create.
type creation struct {
	name, image, platform string
	entrypoint, args, env []string
	labels                map[string]string
	mounts                []mounted
	limits                Limits
}

// mounted is a directory or a volume in a container.
type mounted struct {
	volume, source, target string // volume or source, not both
	readOnly               bool
	labels                 map[string]string // of the volume
}

type exit struct {
	code int
	oom  bool
}

// thing is a container or a volume.
type thing struct {
	id, name string
	labels   map[string]string
	created  string // in the engine's format
	unix     int64  // containers only
}

// errRunStep is the error of one call of run.
type errRunStep struct {
	step string
	err  error
}

func (e *errRunStep) Error() string { return e.step + ": " + e.err.Error() }
func (e *errRunStep) Unwrap() error { return e.err }

// unreachable reports whether an engine does not answer.
func unreachable(err error) bool { return client.IsErrConnectionFailed(err) }

// docker is an engine with the Docker Engine API, such as Docker or Podman.
type docker struct{ api dockerAPI }

// dockerAPI has the methods of *client.Client that this package calls.
type dockerAPI interface {
	Ping(ctx context.Context) (types.Ping, error)
	ServerVersion(ctx context.Context) (types.Version, error)
	NegotiateAPIVersionPing(types.Ping)
	ClientVersion() string

	ImageInspect(ctx context.Context, ref string, o ...client.ImageInspectOption) (
		image.InspectResponse, error)
	ImagePull(ctx context.Context, ref string, o image.PullOptions) (io.ReadCloser, error)
	ImageLoad(ctx context.Context, tar io.Reader, o ...client.ImageLoadOption) (image.LoadResponse,
		error)
	ImageRemove(ctx context.Context, ref string, o image.RemoveOptions) ([]image.DeleteResponse, error)

	ContainerCreate(ctx context.Context, c *container.Config, h *container.HostConfig,
		n *network.NetworkingConfig, p *ocispec.Platform, name string) (container.CreateResponse, error)
	ContainerAttach(ctx context.Context, id string, o container.AttachOptions) (types.HijackedResponse,
		error)
	ContainerWait(ctx context.Context, id string, c container.WaitCondition) (
		<-chan container.WaitResponse, <-chan error)
	ContainerStart(ctx context.Context, id string, o container.StartOptions) error
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ContainerRemove(ctx context.Context, id string, o container.RemoveOptions) error
	ContainerList(ctx context.Context, o container.ListOptions) ([]container.Summary, error)
	CopyToContainer(ctx context.Context, id, dir string, tar io.Reader,
		o container.CopyToContainerOptions) error
	CopyFromContainer(ctx context.Context, id, path string) (io.ReadCloser, container.PathStat, error)

	VolumeCreate(ctx context.Context, o volume.CreateOptions) (volume.Volume, error)
	VolumeList(ctx context.Context, o volume.ListOptions) (volume.ListResponse, error)
	VolumeRemove(ctx context.Context, name string, force bool) error
}

var _ dockerAPI = (*client.Client)(nil)

func (d docker) hello(ctx context.Context) (a about, err error) {
	if h, ok := d.api.(interface{ DaemonHost() string }); ok {
		a.address = h.DaemonHost()
	}
	answer, err := d.api.Ping(ctx)
	if err != nil {
		return a, err
	}
	d.api.NegotiateAPIVersionPing(answer) // the client itself would wait for another call
	v, err := d.api.ServerVersion(ctx)
	a.platform = v.Os + "/" + v.Arch
	return a, err
}

// platformInspect is the first API version that inspects an image for a platform. Earlier,
// containerd's store with several platforms answers for its own.
const platformInspect = "1.49"

func (d docker) image(ctx context.Context, ref, platform string) (*picture, error) {
	var o []client.ImageInspectOption
	if os, arch, ok := strings.Cut(platform, "/"); ok &&
		versions.GreaterThanOrEqualTo(d.api.ClientVersion(), platformInspect) {
		o = append(o, client.ImageInspectWithPlatform(&ocispec.Platform{OS: os, Architecture: arch}))
	}
	info, err := d.api.ImageInspect(ctx, ref, o...)
	switch {
	case errdefs.IsNotFound(err) && ctx.Err() == nil:
		return nil, nil
	case err != nil:
		return nil, err
	}
	p := &picture{ID: info.ID, Digests: info.RepoDigests, Platform: info.Os + "/" + info.Architecture}
	if info.Config != nil {
		p.Env = info.Config.Env
	}
	return p, nil
}

func (d docker) bring(ctx context.Context, s source, report func(Event)) error {
	if s.tar != nil {
		res, err := d.api.ImageLoad(ctx, s.tar)
		if err != nil {
			return err
		}
		return follow(res.Body, report)
	}
	o := image.PullOptions{Platform: s.platform}
	if !s.auth.anonymous() {
		a := s.auth
		text, err := registry.EncodeAuthConfig(registry.AuthConfig{
			Username: a.Username, Password: a.Password, ServerAddress: a.ServerAddress,
			IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
		})
		if err != nil {
			return errors.New("encode the registry credentials: invalid")
		}
		o.RegistryAuth = text
	}
	body, err := d.api.ImagePull(ctx, s.ref, o)
	if err != nil {
		return err
	}
	return follow(body, report)
}

// follow reads the progress of a pull or load. Errors may come at any time in the stream, despite
// HTTP status 200.
func follow(body io.ReadCloser, report func(Event)) error {
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var m struct {
			Status   string `json:"status"`
			Stream   string `json:"stream"`
			ID       string `json:"id"`
			Progress struct {
				Current int64 `json:"current"`
				Total   int64 `json:"total"`
			} `json:"progressDetail"`
			Error  string `json:"error"`
			Detail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the engine's progress: %w", err)
		case m.Detail.Message != "":
			return errors.New(m.Detail.Message)
		case m.Error != "":
			return errors.New(m.Error)
		}
		report(Event{Stage: StagePull, Kind: Progress, Line: cmp.Or(m.Status,
			strings.TrimSpace(m.Stream)), Part: m.ID,
			Current: max(0, m.Progress.Current), Total: max(0, m.Progress.Total)}) // -1: unknown
	}
}

// fileCapabilities let root write to any file in the container. With Podman 4.3 the root directory
// has mode 0555, and a mounted source belongs to a user.
var fileCapabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER"}

func (d docker) create(ctx context.Context, c *creation) (string, []string, error) {
	h := &container.HostConfig{
		NetworkMode: container.NetworkMode(c.limits.Network),
		SecurityOpt: []string{"no-new-privileges"},
		CapDrop:     []string{"ALL"},
		CapAdd:      append(slices.Clone(fileCapabilities), c.limits.Capabilities...),
		// An engine may send logs anywhere. We read them by attach.
		LogConfig: container.LogConfig{Type: "none"},
	}
	if c.limits.Memory > 0 {
		h.Memory, h.MemorySwap = c.limits.Memory, c.limits.Memory
	}
	h.NanoCPUs = int64(c.limits.CPUs * 1e9)
	if c.limits.PIDs > 0 {
		h.PidsLimit = &c.limits.PIDs
	}
	for _, m := range c.mounts {
		// Not Binds: there an engine creates a missing source, as root.
		to := mount.Mount{Type: mount.TypeBind, Source: m.source, Target: m.target, ReadOnly: m.readOnly}
		if m.volume != "" {
			to.Type, to.Source = mount.TypeVolume, m.volume
			// This returns an existing volume. If two builds create it at the same time, Podman 4.3
			// returns an Internal error to one.
			_, err := d.api.VolumeCreate(ctx, volume.CreateOptions{Name: m.volume, Labels: m.labels})
			if err != nil && !errdefs.IsConflict(err) && !strings.Contains(err.Error(),
				"volume already exists") {
				return "", nil, fmt.Errorf("create volume %s: %w", m.volume, err)
			}
		}
		h.Mounts = append(h.Mounts, to)
	}
	os, arch, _ := strings.Cut(c.platform, "/")
	made, err := d.api.ContainerCreate(ctx, &container.Config{
		Image: c.image, Entrypoint: c.entrypoint, Cmd: c.args, Env: c.env, Labels: c.labels,
		AttachStdout: true, AttachStderr: true,
	}, h, nil, &ocispec.Platform{OS: os, Architecture: arch}, c.name)
	return made.ID, made.Warnings, err
}

func (d docker) run(ctx context.Context, id string, stdout, stderr io.Writer) (exit, error) {
	failed := func(step string, err error) (exit, error) { return exit{}, &errRunStep{step, err} }
	// Attach and wait before the start, because both miss earlier events.
	conn, err := d.api.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdout: true,
		Stderr: true})
	if err != nil {
		return failed("attach", err)
	}
	copied := make(chan struct{})
	var copyErr error
	go func() {
		defer close(copied)
		_, copyErr = stdcopy.StdCopy(stdout, stderr, conn.Reader)
	}()
	defer func() {
		conn.Close()
		<-copied // no writes to the caller's streams after this
	}()
	wait, stopWait := context.WithCancel(ctx)
	defer stopWait()
	// next-exit, because not-running holds before the start, and with removed Podman 4.3 always
	// reports exit code 0.
	ended, waitErr := d.api.ContainerWait(wait, id, container.WaitConditionNextExit)
	if err := d.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return failed("start", err)
	}
	select {
	case <-ended: // its code is that of the state below
	case err := <-waitErr:
		return failed("wait", err)
	case <-ctx.Done():
		return failed("wait", ctx.Err())
	}
	select {
	case <-copied:
		if copyErr != nil {
			return failed("read the output", copyErr)
		}
	case <-ctx.Done():
		return failed("read the output", ctx.Err())
	}
	info, err := d.api.ContainerInspect(ctx, id)
	switch {
	case err != nil:
		return failed("inspect", err)
	case info.ContainerJSONBase == nil || info.State == nil || info.State.Running:
		return failed("inspect", errors.New("the engine reported the end of a container that still runs"))
	}
	return exit{info.State.ExitCode, info.State.OOMKilled}, nil
}

func (d docker) put(ctx context.Context, id string, tar io.Reader) error {
	return d.api.CopyToContainer(ctx, id, "/", tar, container.CopyToContainerOptions{})
}

func (d docker) get(ctx context.Context, id, path string) (io.ReadCloser, error) {
	body, _, err := d.api.CopyFromContainer(ctx, id, path)
	return body, err
}

func (d docker) list(ctx context.Context, k kind, labels map[string]string) ([]thing, error) {
	f := filters.NewArgs(filters.Arg("label", LabelRun))
	for name, value := range labels {
		f.Add("label", name+"="+value)
	}
	var all []thing
	if k == volumes {
		list, err := d.api.VolumeList(ctx, volume.ListOptions{Filters: f})
		if err != nil {
			return nil, err
		}
		for _, v := range list.Volumes {
			all = append(all, thing{id: v.Name, name: v.Name, labels: v.Labels, created: v.CreatedAt})
		}
	} else {
		list, err := d.api.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			t := thing{id: c.ID, name: c.ID, labels: c.Labels, unix: c.Created}
			if len(c.Names) > 0 {
				t.name = strings.TrimPrefix(c.Names[0], "/")
			}
			all = append(all, t)
		}
	}
	// Podman 4.3 returns volumes that match any of several labels, not all.
	return slices.DeleteFunc(all, func(t thing) bool {
		for name, value := range labels {
			if t.labels[name] != value {
				return true
			}
		}
		return t.labels[LabelRun] == ""
	}), nil
}

func (d docker) remove(ctx context.Context, k kind, id string) error {
	var err error
	switch k {
	case containers:
		err = d.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	case volumes:
		err = d.api.VolumeRemove(ctx, id, false)
	case images:
		_, err = d.api.ImageRemove(ctx, id, image.RemoveOptions{PruneChildren: true})
	}
	return err
}

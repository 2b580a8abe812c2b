package pluginbuild

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/internal/run"
)

// cleanupTime is how long removing a container may take once the caller's
// context has ended.
const cleanupTime = 30 * time.Second

// job is one container from its creation to its removal.
type job struct {
	kind    string // value of LabelKind
	name    string // for messages
	stage   Stage  // what running it is called
	config  *container.Config
	host    *container.HostConfig
	release *Release
	upload  func(w io.Writer) error // tar for "/"; nil: nothing
	collect func(id string) error   // after exit code 0; nil: nothing
	stdout  io.Writer
	stderr  io.Writer
}

// result is how a container ended.
type result struct {
	code           int
	stdout, stderr string // tails
}

// runJob creates the container, runs it to its end and removes it, whatever
// happens. An exit code other than 0 is an error.
func (b *Builder) runJob(ctx context.Context, j job) (r result, err error) {
	if err := ended(ctx); err != nil {
		return r, &Error{Stage: StageCreate, Object: j.name, Err: err}
	}
	// The name is ours, so that a container whose creation got no answer can
	// be found.
	name := strings.ToLower("tykupgrade-" + j.kind + "-" + b.run[:8] + "-" + rand.Text()[:8])
	j.config.Labels = b.labels(j.kind, j.release)
	j.config.AttachStdout, j.config.AttachStderr = true, true
	id := name
	err = b.stage(StageCreate, func() error {
		// Cancelling this call makes engines answer, and create the container
		// afterwards nevertheless (20.10, Podman 4.3). So it is let finish.
		create, stop := lasting(ctx, cleanupTime)
		defer stop()
		c, err := b.docker.ContainerCreate(create, j.config, j.host, nil, &ocispec.Platform{OS: "linux", Architecture: "amd64"}, name)
		if err != nil {
			return createError(fail(ctx, StageCreate, name, err))
		}
		id = c.ID
		for _, w := range c.Warnings {
			b.log(ctx, "the engine warns", "container", name, "warning", w)
		}
		return nil
	})
	defer func() {
		// Right after a failed creation the name may not be known yet, or
		// never; removing what is not there is no error.
		err = join(err, b.removeContainer(context.WithoutCancel(ctx), id))
	}()
	if err != nil {
		return r, err
	}
	if j.upload != nil {
		if err := b.stage(StageUpload, func() error { return b.upload(ctx, id, j) }); err != nil {
			return r, err
		}
	}
	err = b.stage(j.stage, func() error { r, err = b.runToEnd(ctx, id, j); return err })
	if err != nil {
		return r, err
	}
	if j.collect != nil {
		err = b.stage(StageCollect, func() error { return j.collect(id) })
	}
	return r, err
}

func createError(e *Error) *Error {
	switch text := e.Err.Error(); {
	case networkHint(e):
	case errdefs.IsNotFound(e.Err):
		e.hint = "the image was removed meanwhile; build again"
		e.retry = true
	case strings.Contains(text, "bind source path does not exist"), strings.Contains(text, "invalid mount config"):
		e.hint = "mounted directories must exist on the engine's machine; with a remote engine upload the source instead of binding it"
	}
	return e
}

// networkHint explains a missing network, which Podman 4.3 notices at the
// creation and Docker 20.10 at the start.
func networkHint(e *Error) bool {
	if !errdefs.IsNotFound(e.Err) || !strings.Contains(e.Err.Error(), "network") {
		return false
	}
	e.hint = "the network named for the compiler must exist on the engine; docker network ls shows those"
	return true
}

// join keeps one error as it is.
func join(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return errors.Join(a, b)
}

// lasting returns a context that outlives ctx by d.
func lasting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	long, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, cancel)
		context.AfterFunc(long, func() { timer.Stop() })
	})
	return long, func() { stop(); cancel() }
}

func (b *Builder) upload(ctx context.Context, id string, j job) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := j.upload(w)
		w.CloseWithError(err)
		done <- err
	}()
	in := &counter{r: r, report: func(n int64) {
		b.event(Event{Stage: string(StageUpload), Kind: Progress, Line: "Uploading", Part: "source", Current: n})
	}}
	err := b.docker.CopyToContainer(ctx, id, "/", in, container.CopyToContainerOptions{})
	in.over.Store(true)
	_ = r.Close() // releases the writer where the engine stopped reading
	if local := <-done; local != nil && !errors.Is(local, io.ErrClosedPipe) {
		err = local
	}
	if err != nil {
		return fail(ctx, StageUpload, j.name, err)
	}
	return nil
}

// runToEnd starts the container and waits until it has ended and all its output
// has arrived.
func (b *Builder) runToEnd(ctx context.Context, id string, j job) (result, error) {
	var r result
	failed := func(what string, err error) (result, *Error) {
		return r, fail(ctx, j.stage, j.name, fmt.Errorf("%s: %w", what, err))
	}
	// Attached and waited for before the start: both miss what came earlier.
	conn, err := b.docker.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		r, e := failed("attach", err)
		if strings.Contains(e.Err.Error(), "received 409") {
			// Podman 4.3 makes the container's process ready here and does
			// not say why it could not.
			e.hint = "the engine cannot run the image; docker run of " + j.config.Image + " shows why"
		}
		return r, e
	}
	out := b.newSink(j.stage, j.stdout, false)
	errOut := b.newSink(j.stage, j.stderr, true)
	copied := make(chan struct{})
	var copyErr error
	go func() {
		defer close(copied)
		_, copyErr = stdcopy.StdCopy(out, errOut, conn.Reader)
		out.lines.flush()
		errOut.lines.flush()
	}()
	defer func() {
		conn.Close()
		<-copied // nothing is written to the caller's streams from here on
	}()
	wait, stopWait := context.WithCancel(ctx)
	defer stopWait()
	// next-exit: not-running is true before the start, and removed gives exit
	// code 0 for any on Podman 4.3.
	exit, waitErr := b.docker.ContainerWait(wait, id, container.WaitConditionNextExit)
	if err := b.docker.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		r, e := failed("start", err)
		networkHint(e)
		return r, e
	}
	select {
	case <-exit: // its code is that of the state below
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
	r.stdout, r.stderr = out.tail.String(), errOut.tail.String()
	info, err := b.docker.ContainerInspect(ctx, id)
	switch {
	case err != nil:
		return failed("inspect", err)
	case info.ContainerJSONBase == nil || info.State == nil || info.State.Running:
		return failed("inspect", errors.New("the engine reported an end, but the container has none"))
	}
	r.code = info.State.ExitCode
	if r.code == 0 {
		return r, nil
	}
	return r, exitError(j, r, info.State.OOMKilled)
}

// exitError says why a container ended badly. A compiler that the memory limit
// strikes ends with exit code 1, as for any error in the source; only the
// container's state tells (20.10).
func exitError(j job, r result, oom bool) *Error {
	e := &Error{Stage: j.stage, Object: j.name, ExitCode: r.code, OOMKilled: oom, Output: r.stderr}
	if strings.TrimSpace(e.Output) == "" {
		e.Output = r.stdout
	}
	e.Err, e.Message = fmt.Errorf("exit code %d", r.code), compilerMessage(e.Output)
	switch {
	case r.code == 137 && !oom:
		// Podman 4.3 does not report the memory limit's kill as such.
		e.hint = "something killed it from outside, most often for lack of memory; see the memory limit and the kernel's log"
	case oom:
		e.Err = fmt.Errorf("killed for lack of memory (exit code %d)", r.code)
		e.hint = "raise the memory limit, or free memory on the engine's machine; compiling a plugin takes about 2 GiB"
	case networkFault.MatchString(e.Message):
		e.retry, e.hint = true, "the container could not reach the module proxy; GOPROXY, HTTPS_PROXY and the network given to it decide that"
	case strings.Contains(e.Message, "module lookup disabled by GOPROXY=off"):
		e.hint = "GOPROXY=off lets only the module cache and vendor directories be used; give the compiler the GOPROXY of a proxy"
	case strings.Contains(e.Message, "cannot find module providing package"), strings.Contains(e.Message, "no required module provides"):
		e.hint = "prepare the module for this release first, or let the compiler tidy it (GO_TIDY) where the release knows that"
	case strings.Contains(e.Message, "could not read Username"), strings.Contains(e.Message, "terminal prompts disabled"):
		e.hint = "private modules need GOPRIVATE and a netrc file"
	case strings.Contains(e.Output, "newosproc"), strings.Contains(e.Output, "esource temporarily unavailable"):
		e.hint = "raise the limit of processes, or end some on the engine's machine"
	}
	return e
}

// line reports one line of output.
func (b *Builder) line(s Stage, text string, stderr bool) {
	b.event(Event{Stage: string(s), Kind: Output, Line: text, Stderr: stderr})
}

// removeContainer removes a container with its anonymous volumes.
func (b *Builder) removeContainer(ctx context.Context, id string) error {
	ctx, stop := context.WithTimeout(ctx, cleanupTime)
	defer stop()
	err := b.docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	switch {
	case err == nil, errdefs.IsNotFound(err):
		return nil
	case errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress"):
		return nil
	}
	e := fail(ctx, StageRemove, "container "+id, err)
	e.retry, e.hint = true, "a sweep removes it later, or docker rm -f"
	return e
}

// sink hands output on as it is, and reports and keeps the end of it line by
// line, without the credentials that git and proxies repeat. A caller's writer
// that fails must not stop the reading: the container would block.
type sink struct {
	to    io.Writer
	tail  run.Tail
	lines lines
}

func (b *Builder) newSink(stage Stage, to io.Writer, stderr bool) *sink {
	s := &sink{to: to}
	s.lines.emit = func(l string) {
		l = redact(l)
		_, _ = io.WriteString(&s.tail, l+"\n")
		b.line(stage, l, stderr)
	}
	return s
}

func (s *sink) Write(p []byte) (int, error) {
	s.lines.write(p)
	if s.to != nil {
		if _, err := s.to.Write(p); err != nil {
			s.to = nil
		}
	}
	return len(p), nil
}

// lines cuts a stream into lines, and lines longer than 64 KiB into pieces.
type lines struct {
	emit func(string)
	rest []byte
}

func (l *lines) write(p []byte) {
	for len(p) > 0 {
		end := slices.Index(p, '\n')
		if end < 0 {
			l.rest = append(l.rest, p...)
			if len(l.rest) > 64<<10 {
				l.flush()
			}
			return
		}
		l.rest = append(l.rest, p[:end]...)
		l.emit(strings.TrimSuffix(string(l.rest), "\r"))
		l.rest, p = l.rest[:0], p[end+1:]
	}
}

func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.emit(string(l.rest))
		l.rest = l.rest[:0]
	}
}

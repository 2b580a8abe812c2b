package compiler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"example.com/tykupgrade/internal/redact"
	"example.com/tykupgrade/internal/run"
)

// cleanupTime limits the removal of a container after the end of the caller's context.
const cleanupTime = 30 * time.Second

// job is one container from its creation to its removal.
type job struct {
	kind    string // value of LabelKind
	object  string // for messages
	op      string // stage of its run
	spec    creation
	upload  func(w io.Writer) error // tar for "/"; nil: nothing
	collect func(id string) error   // after exit code 0; nil: nothing
	stdout  io.Writer
	stderr  io.Writer
}

// result is the outcome of a container.
type result struct {
	code           int
	stdout, stderr string // tails
}

// runJob creates a container, runs it to its end and removes it in any case. An exit code other
// than 0 is an error.
func (b *Builder) runJob(ctx context.Context, j job) (r result, err error) {
	if err := ended(ctx); err != nil {
		return r, &Error{Op: StageCreate, Object: j.object, Err: err}
	}
	// Our own name finds the container even if its creation got no answer.
	j.spec.name = strings.ToLower("tykupgrade-" + j.kind + "-" + b.run[:8] + "-" + rand.Text()[:8])
	id := j.spec.name
	err = b.stage(StageCreate, func() error {
		// After a cancel, engines answer but create the container nevertheless (20.10, Podman 4.3).
		// So this call finishes.
		create, stop := lasting(ctx, cleanupTime)
		defer stop()
		made, warnings, err := b.engine.create(create, &j.spec)
		if err != nil {
			return createError(fail(ctx, StageCreate, j.spec.name, err))
		}
		id = made
		for _, w := range warnings {
			b.log(ctx, "the engine warns", "container", j.spec.name, "warning", w)
		}
		return nil
	})
	defer func() {
		// After a failed creation the container may be missing, which is not an error here.
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
	err = b.stage(j.op, func() error { r, err = b.runToEnd(ctx, id, j); return err })
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
		e.Retry, e.Next = true, "the image was removed meanwhile; build again"
	case strings.Contains(text, "cgroup"):
		e.Next = "the engine cannot limit memory or processes: set those limits to -1"
	case strings.Contains(text, "bind source path does not exist"), strings.Contains(text,
		"invalid mount config"):
		e.Next = "create the mounted directories on the engine's machine; for a remote engine upload " +
			"the source instead of binding it"
	}
	return e
}

// networkHint explains a missing network. Podman 4.3 reports it at the creation, Docker 20.10 at
// the start.
func networkHint(e *Error) bool {
	if !errdefs.IsNotFound(e.Err) || !strings.Contains(e.Err.Error(), "network") {
		return false
	}
	e.Next = "name a network of the engine; docker network ls lists them"
	return true
}

// join is errors.Join, but returns a single error unchanged.
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
		b.event(Event{Stage: StageUpload, Kind: Progress, Line: "Uploading", Part: "source", Current: n})
	}}
	err := b.engine.put(ctx, id, in)
	in.over.Store(true)
	_ = r.Close() // releases the writer if the engine stopped reading
	if local := <-done; local != nil && !errors.Is(local, io.ErrClosedPipe) {
		err = local
	}
	if err != nil {
		return fail(ctx, StageUpload, j.object, err)
	}
	return nil
}

// runToEnd starts the container and waits for its end and all its output.
func (b *Builder) runToEnd(ctx context.Context, id string, j job) (result, error) {
	var r result
	out, errOut := b.newSink(j.op, j.stdout, false), b.newSink(j.op, j.stderr, true)
	end, err := b.engine.run(ctx, id, out, errOut)
	out.lines.Flush()
	errOut.lines.Flush()
	r.stdout, r.stderr = out.tail.String(), errOut.tail.String()
	if err != nil {
		var at *errRunStep
		e := fail(ctx, j.op, j.object, err)
		if errors.As(err, &at) && ended(ctx) != nil {
			e.Err = fmt.Errorf("%s: %w", at.step, e.Err)
		}
		if !networkHint(e) && at != nil && at.step == "attach" && strings.Contains(e.Err.Error(),
			"received 409") {
			// Podman 4.3 prepares the container's process here and does not report why that failed.
			e.Next = "the engine cannot run the image: run `docker run " + j.spec.image + "` to see why"
		}
		return result{}, e
	}
	if r.code = end.code; r.code == 0 {
		return r, nil
	}
	return r, exitError(j, r, end.oom)
}

// exitError explains the exit code of a container. A compiler that hits the memory limit exits with
// code 1, as for an error in the source. Only the container's state shows the difference (20.10).
func exitError(j job, r result, oom bool) *Error {
	e := &Error{Op: j.op, Object: j.object, ExitCode: r.code, OOMKilled: oom, Output: r.stderr}
	if strings.TrimSpace(e.Output) == "" {
		e.Output = r.stdout
	}
	e.Err, e.Message = fmt.Errorf("exit code %d", r.code), compilerMessage(e.Output)
	switch {
	case r.code == 137 && !oom:
		// Podman 4.3 does not report a kill by the memory limit.
		e.Next = "the container was killed, most often for lack of memory: check the memory limit and " +
			"the kernel's log"
	case oom:
		e.Err = fmt.Errorf("killed for lack of memory (exit code %d)", r.code)
		e.Next = "raise the memory limit, or free memory on the engine's machine; compiling a plugin " +
			"takes about 2 GiB"
	case networkFault.MatchString(e.Message):
		e.Retry, e.Next = true, "the container could not reach the module proxy: check GOPROXY, "+
			"HTTPS_PROXY and the container's network"
	case strings.Contains(e.Message, "module lookup disabled by GOPROXY=off"):
		e.Next = "GOPROXY=off allows only the module cache and vendor directories: set GOPROXY to a proxy"
	case strings.Contains(e.Message, "cannot find module providing package"),
		strings.Contains(e.Message, "no required module provides"):
		e.Next = "prepare the module for this release first, or let the compiler tidy it (GO_TIDY, " +
			"from 5.2.4)"
	case strings.Contains(e.Message, "could not read Username"), strings.Contains(e.Message,
		"terminal prompts disabled"):
		e.Next = "for private modules set GOPRIVATE and a netrc file"
	case strings.Contains(e.Output, "newosproc"), strings.Contains(e.Output,
		"esource temporarily unavailable"):
		e.Next = "raise the limit of processes, or stop some on the engine's machine"
	case strings.Contains(e.Message, diskFull):
		e.Next = diskFullNext
	case strings.Contains(e.Message, "ermission denied"), strings.Contains(e.Message,
		"peration not permitted"):
		e.Next = "the container has only the capabilities to write files: add those that the image " +
			"needs to Limits"
	}
	return e
}

// line reports one line of output.
func (b *Builder) line(op, text string, stderr bool) {
	b.event(Event{Stage: op, Kind: Output, Line: text, Stderr: stderr})
}

// removeContainer removes a container with its anonymous volumes.
func (b *Builder) removeContainer(ctx context.Context, id string) error {
	ctx, stop := context.WithTimeout(ctx, cleanupTime)
	defer stop()
	err := b.engine.remove(ctx, containers, id)
	switch {
	case err == nil, errdefs.IsNotFound(err):
		return nil
	case errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress"):
		return nil
	}
	e := fail(ctx, StageRemove, "container "+id, err)
	e.Retry, e.Next = true, "remove it with Sweep or docker rm -f"
	return e
}

// sink passes output on unchanged. It also reports each line and keeps the last ones, without
// credentials. After an error of the caller's writer it reads on, so that the container does not
// block.
type sink struct {
	to    io.Writer
	tail  run.Tail
	lines run.Lines
}

func (b *Builder) newSink(op string, to io.Writer, stderr bool) *sink {
	s := &sink{to: to}
	s.lines.Emit = func(l string) {
		l = redact.Text(l)
		_, _ = io.WriteString(&s.tail, l+"\n")
		b.line(op, l, stderr)
	}
	return s
}

func (s *sink) Write(p []byte) (int, error) {
	_, _ = s.lines.Write(p)
	if s.to != nil {
		if _, err := s.to.Write(p); err != nil {
			s.to = nil
		}
	}
	return len(p), nil
}

package compiler

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/pluginbuild"
)

// Verdict is the result of a load test.
type Verdict struct {
	Loads  bool   `json:"loads"`
	Reason string `json:"reason,omitempty"` // the gateway's message if the plugin does not load
	Output string `json:"output,omitempty"` // the end of the gateway's output
}

var symbolRule = lazyregexp.New(`^\p{Lu}[\p{L}\p{Nd}_]*$`)

// LoadTest runs `tyk plugin load` in the compiler image: the gateway loads the plugin and looks up
// symbol. The plugin's init code runs too, in a container without network. Compiler images before
// 5.2.3 and all next-generation ones have no gateway. For these set Ref and Gateway of i, otherwise
// the error matches [ErrUnsupported]. It also does for plugins for processors other than amd64.
//
// A plugin that does not load is a Verdict, not an error.
func (b *Builder) LoadTest(ctx context.Context, r pluginbuild.Release, i pluginbuild.Image, plugin,
	symbol string) (Verdict, error) {
	if r.Version == nil {
		return Verdict{}, refuse("load test", "no release given; get one from Lookup")
	}
	object := filepath.Base(plugin) + " in " + r.Version.String()
	r, err := r.WithVariant(i.Variant)
	if err != nil {
		return Verdict{}, err
	}
	entrypoint := []string{"/usr/local/bin/tyk"}
	if i.Gateway != "" {
		entrypoint = []string{i.Gateway}
	} else if !r.Compiler.Gateway {
		return Verdict{}, &Error{Op: StageLoad, Object: object, Kind: ErrUnsupported,
			Err: errors.New("its compiler image has no gateway"),
			Next: "set Ref and Gateway to an image of the gateway and the path in it; package preflight " +
				"checks without running the plugin"}
	}
	if !symbolRule.MatchString(symbol) {
		return Verdict{}, refuse("load test "+object, "symbol %q is not an exported Go name", symbol)
	}
	if err := b.checkOptions("load test " + object); err != nil {
		return Verdict{}, err
	}
	f, err := os.Open(plugin)
	if err != nil {
		return Verdict{}, refuse("load test "+object, "%w", err)
	}
	defer f.Close()
	if err := inspect(f, &Artifact{GOARCH: "amd64"}, false); err != nil {
		return Verdict{}, &Error{Op: StageLoad, Object: object, Kind: ErrUnsupported, Err: err}
	}
	info, err := f.Stat()
	if err != nil {
		return Verdict{}, refuse("load test "+object, "%w", err)
	}
	if err := b.stage(StageConnect, func() error { return b.connect(ctx) }); err != nil {
		return Verdict{}, err
	}
	var img found
	if err := b.stage(StagePull, func() error {
		img, err = b.ensureImage(ctx, &Request{Release: r, Image: i})
		return err
	}); err != nil {
		return Verdict{}, err
	}
	limits := b.o.Limits
	limits.Network = "none"
	name := filepath.Base(plugin)
	res, err := b.runJob(ctx, job{
		kind: "loadtest", op: StageLoad, object: object,
		spec: creation{
			image: img.id, platform: img.platform, entrypoint: entrypoint,
			args:   []string{"plugin", "load", "-f", "/" + sourceDir + "/" + name, "-s", symbol},
			labels: b.labels("loadtest", &r), mounts: b.mounts(nil), limits: limits,
		},
		upload: func(w io.Writer) error {
			t := tar.NewWriter(w)
			hdr := header(sourceDir+"/"+name, tar.TypeReg, 0o644)
			hdr.Size = info.Size()
			if err := t.WriteHeader(hdr); err != nil {
				return err
			}
			if _, err := io.Copy(t, io.NewSectionReader(f, 0, info.Size())); err != nil {
				return err
			}
			return t.Close()
		},
	})
	var e *Error
	v := Verdict{Output: strings.TrimSpace(res.stdout + res.stderr)}
	v.Loads = err == nil || errors.As(err, &e) && e.Op == StageRemove
	// A crash while loading is a verdict too, as for a plugin of another Go release. A kill or a
	// missing gateway is not.
	if errors.As(err, &e) && e.Op == StageLoad && e.ExitCode > 0 && e.ExitCode < 126 && !e.OOMKilled {
		v.Reason = loadReason(e.Output)
		if alone, ok := err.(*Error); ok && alone == e {
			return v, nil
		}
		return v, err.(interface{ Unwrap() []error }).Unwrap()[1] // of the container's removal
	}
	return v, err
}

// loadReason returns the line of the gateway's error, or the first line of a crash.
func loadReason(output string) string {
	first := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if _, reason, ok := strings.Cut(line, "unexpected error: "); ok {
			return reason
		}
		if strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "panic: ") {
			return line
		}
		if first == "" {
			first = line
		}
	}
	return first
}

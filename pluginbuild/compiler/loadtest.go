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

// Verdict is what a gateway said of a plugin.
type Verdict struct {
	Loads  bool   `json:"loads"`
	Reason string `json:"reason,omitempty"` // in the gateway's words, when it does not load
	Output string `json:"output,omitempty"` // the end of what the gateway printed
}

var symbolRule = lazyregexp.New(`^\p{Lu}[\p{L}\p{Nd}_]*$`)

// LoadTest lets the gateway in the compiler image load a plugin and look up a
// hook: `tyk plugin load`. The plugin's own init code runs there, in a container
// without network. Compiler images before 5.2.3, and every next-generation one, have no
// gateway: i must then name an image that has one and its path (Ref and Gateway). Without
// them, and for plugins for processors other than amd64, the error matches
// [ErrUnsupported].
//
// A plugin that does not load is a verdict, not an error. Errors are about the test
// itself.
func (b *Builder) LoadTest(ctx context.Context, r pluginbuild.Release, i pluginbuild.Image, plugin,
	symbol string) (Verdict, error) {
	if r.Version == nil {
		return Verdict{}, refuse("load test", "no release given; Lookup finds one")
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
			Err: errors.New("its compiler image carries no gateway"),
			Next: "name an image of the gateway and where it has that; package preflight compares plugin " +
				"and gateway without running either"}
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
	// A gateway that crashes while loading, as for a plugin of another Go
	// release, has judged it too; one that was killed or is missing has not.
	if errors.As(err, &e) && e.Op == StageLoad && e.ExitCode > 0 && e.ExitCode < 126 && !e.OOMKilled {
		v.Reason = loadReason(e.Output)
		if alone, ok := err.(*Error); ok && alone == e {
			return v, nil
		}
		return v, err.(interface{ Unwrap() []error }).Unwrap()[1] // a container that could not be removed
	}
	return v, err
}

// loadReason picks the gateway's own words: the line of its error, or the first
// of a crash.
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

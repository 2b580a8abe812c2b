package compiler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
	"example.com/tykupgrade/pluginbuild"
)

// ProvenanceSuffix is appended to a plugin's file name to name its provenance.
const ProvenanceSuffix = ".intoto.json"

// Statement is the provenance of a plugin: an in-toto Statement v1 with a SLSA Provenance v1
// predicate. It is not signed.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Subject  `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Provenance `json:"predicate"`
}

// Subject is a file by name and digest.
type Subject struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// Provenance is the predicate of a [Statement].
type Provenance struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters,omitempty"`
		ResolvedDependencies []Subject      `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata struct {
			InvocationID string    `json:"invocationId"`
			StartedOn    time.Time `json:"startedOn"`
			FinishedOn   time.Time `json:"finishedOn"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

const (
	statementType  = "https://in-toto.io/Statement/v1"
	provenanceType = "https://slsa.dev/provenance/v1"
	buildType      = "https://example.com/tykupgrade/pluginbuild/compiler/v1"
)

// sourceDigest identifies the source of a build.
type sourceDigest struct {
	tree, mod, sum string // SHA-256; "": the file is missing
}

// digestSource hashes the names, modes and contents of the uploaded files in their order. It hashes
// the output of sha256sum with a mode before each line, so a person can compute it too.
func digestSource(fsys fs.FS, exclude exclusion) (sourceDigest, error) {
	var d sourceDigest
	tree := sha256.New()
	_, err := walkSource(fsys, exclude, func(name string, e fs.DirEntry) error {
		switch {
		case e.IsDir():
			return nil
		case e.Type() == fs.ModeSymlink:
			target, err := fs.ReadLink(fsys, name)
			fmt.Fprintf(tree, "link %s  %s\n", target, name)
			return err
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		mode, sum := "644", hex.EncodeToString(h.Sum(nil))
		if info.Mode().Perm()&0o111 != 0 {
			mode = "755"
		}
		fmt.Fprintf(tree, "%s %s  %s\n", mode, sum, name)
		switch name {
		case "go.mod":
			d.mod = sum
		case "go.sum":
			d.sum = sum
		}
		return nil
	})
	d.tree = hex.EncodeToString(tree.Sum(nil))
	return d, err
}

func digestDir(q *Request) (sourceDigest, error) {
	root, err := os.OpenRoot(q.Dir)
	if err != nil {
		return sourceDigest{}, err
	}
	defer root.Close()
	return digestSource(root.FS(), q.exclusions())
}

// statement describes a finished build. It has the names of environment variables, but not their
// values, which may be secret.
func (b *Builder) statement(q *Request, a Artifact, src sourceDigest, started,
	finished time.Time) Statement {
	s := Statement{Type: statementType, PredicateType: provenanceType,
		Subject: []Subject{{Name: filepath.Base(a.Path), Digest: map[string]string{"sha256": a.SHA256}}}}
	d := &s.Predicate.BuildDefinition
	d.BuildType = buildType
	d.ExternalParameters = map[string]any{
		"release": a.Release, "commit": q.Release.Commit, "image": a.Image, "name": q.Name,
		"goos": q.GOOS, "goarch": q.GOARCH,
		"variant": cmp.Or(q.Release.Compiler.Variant, pluginbuild.Classic),
	}
	if q.ID != "" {
		d.ExternalParameters["id"] = q.ID
	}
	if len(q.Exclude) > 0 {
		d.ExternalParameters["exclude"] = q.Exclude
	}
	var flags []string
	for flag, on := range map[string]bool{"GO_GET": q.GoGet, "GO_TIDY": q.GoTidy, "DEBUG": q.Debug,
		"VALIDATE=0": q.NoValidate, "bind": q.Bind} {
		if on {
			flags = append(flags, flag)
		}
	}
	slices.Sort(flags)
	d.InternalParameters = map[string]any{"flags": flags, "network": cmp.Or(b.o.Limits.Network,
		"default"), "go": a.GoVersion, "module": a.ModulePath,
		"environment": slices.Sorted(maps.Keys(b.o.Env))}
	image := Subject{Name: "image", URI: "docker:" + a.Image, Digest: map[string]string{
		"sha256": strings.TrimPrefix(cmp.Or(a.ImageDigest, a.ImageID), "sha256:")}}
	if a.ImageDigest == "" {
		image.Name = "image ID"
	}
	d.ResolvedDependencies = []Subject{image, {Name: "source tree", Digest: map[string]string{
		"sha256": src.tree}}}
	for _, f := range [][2]string{{"go.mod", src.mod}, {"go.sum", src.sum}} {
		if f[1] != "" {
			d.ResolvedDependencies = append(d.ResolvedDependencies, Subject{Name: f[0],
				Digest: map[string]string{"sha256": f[1]}})
		}
	}
	run := &s.Predicate.RunDetails
	run.Builder.ID = buildType
	run.Metadata.InvocationID = b.run
	run.Metadata.StartedOn, run.Metadata.FinishedOn = started.UTC().Truncate(time.Second),
		finished.UTC().Truncate(time.Second)
	return s
}

// writeProvenance puts the statement next to the plugin.
func (b *Builder) writeProvenance(ctx context.Context, q *Request, a Artifact, src sourceDigest,
	started time.Time) error {
	// The digests are from before the upload. A later change may be in the plugin.
	if now, err := digestDir(q); err != nil || now != src {
		if err == nil {
			err = errors.New("the source changed during the build; no provenance was written")
		}
		e := fail(ctx, StageCollect, q.Dir, err)
		e.Next = "compile again"
		return e
	}
	data, err := json.MarshalIndent(b.statement(q, a, src, started, time.Now()), "", "  ")
	if err != nil {
		return fail(ctx, StageCollect, a.Path, err)
	}
	if _, err := atomicfile.WriteBytes(ctx, a.Path+ProvenanceSuffix, atomicfile.Options{Mode: 0o644},
		append(data, '\n')); err != nil {
		return fail(ctx, StageCollect, a.Path+ProvenanceSuffix, err)
	}
	return nil
}

// VerifyProvenance returns the provenance next to a plugin. It fails if the provenance is for
// another file. A provenance is not signed: trust it only if you trust everybody with write access
// to both files.
func VerifyProvenance(plugin string) (Statement, error) {
	bad := func(err error) (Statement, error) {
		return Statement{}, &Error{Op: "verify provenance", Object: plugin, Err: err}
	}
	f, err := os.Open(plugin + ProvenanceSuffix)
	if err != nil {
		return bad(err)
	}
	defer f.Close()
	var s Statement
	if err := json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&s); err != nil {
		return bad(err)
	}
	if s.Type != statementType || s.PredicateType != provenanceType || len(s.Subject) != 1 {
		return bad(errors.New("not an in-toto statement with one subject and SLSA provenance"))
	}
	so, err := os.Open(plugin)
	if err != nil {
		return bad(err)
	}
	defer so.Close()
	h := sha256.New()
	if _, err := io.Copy(h, so); err != nil {
		return bad(err)
	}
	if got, want := hex.EncodeToString(h.Sum(nil)), s.Subject[0].Digest["sha256"]; got != want {
		return bad(fmt.Errorf("the plugin has SHA-256 %s, but its provenance is for %s", got, want))
	}
	return s, nil
}

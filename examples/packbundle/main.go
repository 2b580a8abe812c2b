// Command packbundle builds, verifies, explains and publishes Tyk plugin bundles. It is a thin
// command around package bundle.
package main

import (
	"archive/zip"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
)

func main() { program().Main() }

// options are the flags of all verbs.
type options struct {
	manifest, dir, out, key, pub, sha256, release, platform, run string
	detached, json                                               bool
}

func program() cli.Command {
	var o options
	asJSON := func(f *flag.FlagSet) { f.BoolVar(&o.json, "json", false, "print one JSON object") }
	publish := func(f *flag.FlagSet) {
		f.StringVar(&o.dir, "dir", "", "the `directory` that the bundle server serves")
		f.StringVar(&o.run, "run", "packbundle", "the `name` of this run; another run is refused until "+
			"this one is accepted or reverted")
		asJSON(f)
	}
	end := func(name, about string, call func(bundle.Publication, context.Context) error,
		done string) cli.Verb {
		return cli.Verb{Name: name, Args: "NAME", About: about, Required: []string{"dir"}, Flags: publish,
			Run: func(ctx context.Context, c *cli.Call) error {
				return o.answer(c, map[string]string{name + "ed": c.Args[0]}, call(o.publication(c.Args[0]),
					ctx), done, c.Args[0])
			}}
	}
	return cli.Command{
		Name:  "packbundle",
		About: "Builds, verifies, explains and publishes Tyk plugin bundles.",
		Notes: `A gateway keeps a bundle by its name and downloads no name twice. To switch
gateways, publish under the name that the APIs have, and restart each gateway
without its cached directory. A running gateway that is given a new name with the
same plugin answers every request with 500, or passes it without the plugin.
`,
		Verbs: []cli.Verb{
			{Name: "build", About: "build a bundle from a manifest and the files that it lists",
				Flags: func(f *flag.FlagSet) {
					f.StringVar(&o.manifest, "manifest", "manifest.json", "the `file` to build from")
					f.StringVar(&o.dir, "dir", "", "the `directory` of the files that it lists (default: the "+
						"manifest's)")
					f.StringVar(&o.out, "o", "bundle.zip", "the `bundle` to write")
					f.StringVar(&o.key, "key", "", "sign with the RSA private `key` in this PEM file")
					f.BoolVar(&o.detached, "detached", false, "also write a signature over the whole zip, to the "+
						"bundle's name and .sig")
					asJSON(f)
				}, Needs: map[string]string{"detached": "key"}, Run: o.build},
			{Name: "verify", Args: "BUNDLE", About: "check structure, checksum and signature",
				Flags: func(f *flag.FlagSet) {
					f.StringVar(&o.pub, "pub", "", "the RSA public `key`, a PEM file; the bundle must "+
						"then be signed")
					f.StringVar(&o.sha256, "sha256", "", "the `digest` that the zip must have")
					f.BoolVar(&o.detached, "detached", false, "BUNDLE.sig must be the key's signature over "+
						"the whole zip")
					asJSON(f)
				}, Needs: map[string]string{"detached": "pub"}, Run: o.verify},
			{Name: "which", Args: "BUNDLE", About: "print the file that a gateway loads for each hook",
				Required: []string{"release"}, Flags: func(f *flag.FlagSet) {
					f.StringVar(&o.release, "release", "", "the gateway's `version`, as 5.2.5")
					f.StringVar(&o.platform, "platform", "linux/amd64", "the gateway's `os/arch`")
					asJSON(f)
				}, Run: o.which},
			{Name: "publish", Args: "BUNDLE NAME", About: "serve a bundle under a name and keep the old one",
				Required: []string{"dir"}, Flags: func(f *flag.FlagSet) {
					f.StringVar(&o.pub, "pub", "", "the RSA public `key`, a PEM file; BUNDLE.sig must be its "+
						"signature over the whole zip")
					publish(f)
				},
				Run: func(ctx context.Context, c *cli.Call) (err error) {
					p := o.publication(c.Args[1])
					if o.pub != "" {
						if p.Key, err = load(o.pub, bundle.ParsePublicKey); err != nil {
							return o.answer(c, nil, err, "")
						}
					}
					r, err := p.Publish(ctx, c.Args[0])
					return o.answer(c, r, err, "%s is served as %s; accept or revert it", c.Args[0], c.Args[1])
				}},
			end("revert", "serve the old bundle again", bundle.Publication.Revert, "%s is what it was"),
			end("accept", "remove the old bundle", bundle.Publication.Accept, "%s is accepted"),
		},
	}
}

func (o *options) publication(name string) bundle.Publication {
	dir, _ := filepath.Abs(o.dir) // without a working directory it is empty, and refused
	return bundle.Publication{Dir: dir, Name: name, Run: o.run}
}

// answer prints a result, or the error with its findings, for people or as JSON.
func (o *options) answer(c *cli.Call, result any, err error, format string, a ...any) error {
	c.Err.Clear()
	own := new(bundle.Error)
	if errors.As(err, &own) && len(own.Findings) > 0 {
		show(c, own.Findings)
		err = errors.New("no gateway can use the bundle")
	}
	switch {
	case err != nil && o.json:
		failed := map[string]any{"error": err.Error(), "hint": own.Hint(), "retryable": own.Retryable(),
			"findings": append([]bundle.Finding{}, own.Findings...)}
		return errors.Join(err, c.JSON(failed))
	case err != nil:
		return err
	case o.json:
		return c.JSON(result)
	}
	c.Out.Printf(format+"\n", a...)
	return nil
}

func show(c *cli.Call, findings []bundle.Finding) {
	for _, f := range findings {
		style := cli.Warn
		if f.Severity == bundle.Refused {
			style = cli.Bad
		}
		c.Err.Printf("%s %s: %s\n  %s\n", c.Err.Paint(style, string(f.Severity)+":"), f.Path, f.Problem,
			f.Remedy)
	}
}

// progress draws a bar on a terminal if the work takes long.
func progress(c *cli.Call, label string) func(bundle.Event) {
	const large = 16 << 20
	if !c.Err.Live() {
		return nil
	}
	return func(e bundle.Event) {
		if e.Total >= large {
			c.Err.Redraw(cli.Bar(label, e.Done, e.Total))
		}
	}
}

// load reads a file of one of the package's formats.
func load[T any](path string, parse func([]byte) (T, error)) (v T, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	if v, err = parse(data); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return v, err
}

func (o *options) build(ctx context.Context, c *cli.Call) error {
	m, err := load(o.manifest, bundle.Parse)
	if err != nil {
		return o.answer(c, nil, err, "")
	}
	dir := o.dir
	if dir == "" {
		dir = filepath.Dir(o.manifest)
	}
	w := bundle.Options{Progress: progress(c, "pack")}
	signed := "unsigned"
	if o.key != "" {
		if w.Signer, err = load(o.key, bundle.ParsePrivateKey); err != nil {
			return o.answer(c, nil, err, "")
		}
		signed = "signed"
	}
	findings := append([]bundle.Finding{}, m.Validate(os.DirFS(dir))...) // [] in JSON
	r, err := bundle.WriteFile(ctx, o.out, os.DirFS(dir), m, w)
	if err == nil && o.detached {
		err = bundle.SignFile(ctx, o.out, w.Signer)
	}
	if err != nil {
		return o.answer(c, nil, err, "")
	}
	if !o.json {
		show(c, findings)
	}
	name := r.Name(strings.TrimSuffix(filepath.Base(o.out), ".zip"))
	return o.answer(c, map[string]any{"bundle": o.out, "name": name, "size": r.Size,
		"sha256": r.SHA256, "manifest": r.Manifest, "findings": findings},
		nil, "%s: %s, checksum %s, %s\nSHA-256 %s", o.out, cli.Bytes(r.Size), r.Manifest.Checksum, signed,
		r.SHA256)
}

func (o *options) verify(ctx context.Context, c *cli.Call) error {
	v := bundle.VerifyOptions{SHA256: o.sha256}
	signature := "unchecked"
	if o.pub != "" {
		var err error
		if v.Key, err = load(o.pub, bundle.ParsePublicKey); err != nil {
			return o.answer(c, nil, err, "")
		}
		signature = "valid"
	}
	m, findings, err := read(ctx, c, c.Args[0], v)
	if err == nil && o.detached {
		err = bundle.VerifyFile(c.Args[0], v.Key)
	}
	if err != nil {
		return o.answer(c, nil, err, "")
	}
	if refused := slices.DeleteFunc(slices.Clone(findings),
		func(f bundle.Finding) bool { return f.Severity != bundle.Refused }); len(refused) > 0 {
		return o.answer(c, nil, &bundle.Error{Op: "verify bundle", Kind: bundle.ErrManifest,
			Findings: refused}, "")
	}
	if m.Signature == "" {
		signature = "none"
	}
	if !o.json {
		show(c, findings)
	}
	return o.answer(c, map[string]any{"bundle": c.Args[0], "signature": signature, "manifest": m,
		"findings": findings},
		nil, "%s: %s, %d files, checksum %s, signature: %s", c.Args[0], c.Out.Paint(cli.Good, "good"),
		len(m.FileList), m.Checksum, signature)
}

func (o *options) which(ctx context.Context, c *cli.Call) error {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(o.release, "v"))
	if err != nil {
		return cli.Wrong("invalid -release %q: want all three numbers, as 5.2.5", o.release)
	}
	goos, goarch, _ := strings.Cut(o.platform, "/")
	if goos == "" || goarch == "" {
		return cli.Wrong("invalid -platform %q: want os/arch, as linux/arm64", o.platform)
	}
	m, _, err := read(ctx, c, c.Args[0], bundle.VerifyOptions{})
	if err != nil {
		return o.answer(c, nil, err, "")
	}
	all, err := m.Resolve(v, goos, goarch)
	rows := [][]string{{"HOOK", "PATH", "LOADS", "TRIED IN ORDER"}}
	for _, r := range all {
		if r.File == "" {
			r.File = "nothing"
		}
		rows = append(rows, []string{strings.TrimPrefix(r.Hook, "custom_middleware."), r.Path, r.File,
			strings.Join(r.Tried, ", ")})
	}
	if !o.json && len(all) > 0 {
		c.Out.Printf("%s", c.Out.Table(rows))
	}
	if err != nil || !o.json {
		return o.answer(c, nil, err, "a gateway that runs may refuse a file all the same: plugin "+
			"already loaded")
	}
	return c.JSON(map[string]any{"bundle": c.Args[0], "gateway": v.String(), "platform": o.platform,
		"hooks": all})
}

// read verifies the bundle and validates what is in it.
func read(ctx context.Context, c *cli.Call, path string,
	v bundle.VerifyOptions) (*bundle.Manifest, []bundle.Finding, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	v.Progress = progress(c, "verify")
	stop := context.AfterFunc(ctx, func() { _ = f.Close() }) // ends a read
	defer stop()
	m, err := bundle.Verify(f, info.Size(), v)
	var files *zip.Reader
	if err == nil {
		files, err = zip.NewReader(f, info.Size())
	}
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, append([]bundle.Finding{}, m.Validate(files)...), nil
}

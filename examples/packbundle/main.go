// Command packbundle builds, verifies, explains and publishes Tyk plugin bundles. It is a thin
// command around package bundle.
package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
)

func main() { program().Main() }

// flags by the verbs Build, Verify, Which, Publish, Revert and Accept.
const flags cli.Table = `
B manifest=manifest.json the <file> to build from
B dir=           the <directory> of the files that it lists (default: the manifest's)
B o=bundle.zip   the <bundle> to write
B key=           sign with the RSA private <key> in this PEM file
B detached       also write a signature over the whole zip, to the bundle's name and .sig
V pub=           the RSA public <key>, a PEM file; the bundle must then be signed
V sha256=        the <digest> that the zip must have
V detached       BUNDLE.sig must be the key's signature over the whole zip
W release=       the gateway's <version>, such as 5.2.5
W platform=linux/amd64 the gateway's <os/arch>
P pub=           the RSA public <key>, a PEM file; BUNDLE.sig must be its signature over the whole
                 zip
PRA dir=         the <directory> that the bundle server serves
PRA run=packbundle the <name> of this run; another run is refused until this one is accepted or
                 reverted
BVWPRA json      print one JSON object
`

func program() cli.Command {
	served := []string{"dir"}
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
				Flags: flags.Flags("B"), Needs: map[string]string{"detached": "key"}, Run: build},
			{Name: "verify", Args: "BUNDLE", About: "check structure, checksum and signature",
				Flags: flags.Flags("V"), Needs: map[string]string{"detached": "pub"}, Run: verify},
			{Name: "which", Args: "BUNDLE", About: "print the file that a gateway loads for each hook",
				Flags: flags.Flags("W"), Required: []string{"release"}, Run: which},
			{Name: "publish", Args: "BUNDLE NAME", About: "serve a bundle under a name and keep the old one",
				Flags: flags.Flags("P"), Required: served, Run: publish},
			{Name: "revert", Args: "NAME", About: "serve the old bundle again", Flags: flags.Flags("R"),
				Required: served, Run: end(bundle.Publication.Revert, "%s is what it was")},
			{Name: "accept", Args: "NAME", About: "remove the old bundle", Flags: flags.Flags("A"),
				Required: served, Run: end(bundle.Publication.Accept, "%s is accepted")},
		},
	}
}

// answer prints a result, or the error with its findings, for people or as JSON.
func answer(c *cli.Call, result any, err error, format string, a ...any) error {
	c.Err.Clear()
	own := new(bundle.Error)
	if errors.As(err, &own) && len(own.Findings) > 0 {
		show(c, own.Findings)
		err = errors.New("no gateway can use the bundle")
	}
	switch {
	case err != nil && c.On("json"):
		failed := map[string]any{"error": err.Error(), "hint": own.Hint(), "retryable": own.Retryable(),
			"findings": append([]bundle.Finding{}, own.Findings...)}
		return errors.Join(refused(err), c.JSON(failed))
	case err != nil:
		return refused(err)
	case c.On("json"):
		return c.JSON(result)
	}
	c.Say(format, a...)
	return nil
}

// refused gives errors after which nothing has changed their exit code.
func refused(err error) error {
	return cli.Translate(err, cli.Cases{{bundle.ErrLocked, cli.Busy, ""},
		{bundle.ErrPublished, cli.Refused, ""}, {bundle.ErrChanged, cli.Refused, ""}})
}

func fail(c *cli.Call, err error) error { return answer(c, nil, err, "") }

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
	return func(e bundle.Event) {
		if e.Total >= large {
			c.Err.Redraw(cli.Bar(label, e.Done, e.Total))
		}
	}
}

func build(ctx context.Context, c *cli.Call) error {
	m, err := cli.File(c, "manifest", bundle.Parse)
	if err != nil {
		return fail(c, err)
	}
	dir, out := c.Text("dir"), c.Text("o")
	if dir == "" {
		dir = filepath.Dir(c.Text("manifest"))
	}
	o, signed := bundle.Options{Progress: progress(c, "pack")}, "unsigned"
	if c.Given["key"] {
		if o.Signer, err = cli.File(c, "key", bundle.ParsePrivateKey); err != nil {
			return fail(c, err)
		}
		signed = "signed"
	}
	findings := append([]bundle.Finding{}, m.Validate(os.DirFS(dir))...) // [] in JSON
	r, err := bundle.WriteFile(ctx, out, os.DirFS(dir), m, o)
	if err == nil && c.On("detached") {
		err = bundle.SignFile(ctx, out, o.Signer)
	}
	if err != nil {
		return fail(c, err)
	}
	if !c.On("json") {
		show(c, findings)
	}
	name := r.Name(strings.TrimSuffix(filepath.Base(out), ".zip"))
	return answer(c, map[string]any{"bundle": out, "name": name, "size": r.Size, "sha256": r.SHA256,
		"manifest": r.Manifest, "findings": findings}, nil, "%s: %s, checksum %s, %s\nSHA-256 %s", out,
		cli.Bytes(r.Size), r.Manifest.Checksum, signed, r.SHA256)
}

func verify(ctx context.Context, c *cli.Call) (err error) {
	path, signature := c.Args[0], "unchecked"
	v := bundle.VerifyOptions{SHA256: c.Text("sha256"), Progress: progress(c, "verify")}
	if v.Key, err = cli.File(c, "pub", bundle.ParsePublicKey); err != nil {
		return fail(c, err)
	}
	if v.Key != nil {
		signature = "valid"
	}
	m, findings, err := bundle.Check(ctx, path, v)
	if err == nil && c.On("detached") {
		err = bundle.VerifyFile(path, v.Key)
	}
	refused := slices.DeleteFunc(slices.Clone(findings),
		func(f bundle.Finding) bool { return f.Severity != bundle.Refused })
	if err == nil && len(refused) > 0 {
		err = &bundle.Error{Op: "verify bundle", Kind: bundle.ErrManifest, Findings: refused}
	}
	if err != nil {
		return fail(c, err)
	}
	if m.Signature == "" {
		signature = "none"
	}
	if !c.On("json") {
		show(c, findings)
	}
	return answer(c, map[string]any{"bundle": path, "signature": signature, "manifest": m,
		"findings": append([]bundle.Finding{}, findings...)}, nil,
		"%s: %s, %d files, checksum %s, signature: %s", path, c.Out.Paint(cli.Good, "good"),
		len(m.FileList), m.Checksum, signature)
}

func which(ctx context.Context, c *cli.Call) error {
	release, platform := c.Text("release"), c.Text("platform")
	v, err := semver.StrictNewVersion(strings.TrimPrefix(release, "v"))
	if err != nil {
		return cli.Wrong("invalid -release %q: want all three numbers, such as 5.2.5", release)
	}
	goos, goarch, _ := strings.Cut(platform, "/")
	if goos == "" || goarch == "" {
		return cli.Wrong("invalid -platform %q: want os/arch, such as linux/arm64", platform)
	}
	m, _, err := bundle.Check(ctx, c.Args[0], bundle.VerifyOptions{Progress: progress(c, "verify")})
	if err != nil {
		return fail(c, err)
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
	if len(all) > 0 {
		c.Say("%s", strings.TrimSuffix(c.Out.Table(rows), "\n"))
	}
	return answer(c, map[string]any{"bundle": c.Args[0], "gateway": v.String(), "platform": platform,
		"hooks": all}, err, "a gateway that runs may refuse a file all the same: plugin already loaded")
}

func publication(c *cli.Call, name string) bundle.Publication {
	dir, _ := filepath.Abs(c.Text("dir")) // without a working directory it is empty, and refused
	return bundle.Publication{Dir: dir, Name: name, Run: c.Text("run")}
}

func publish(ctx context.Context, c *cli.Call) (err error) {
	p := publication(c, c.Args[1])
	if p.Key, err = cli.File(c, "pub", bundle.ParsePublicKey); err != nil {
		return fail(c, err)
	}
	r, err := p.Publish(ctx, c.Args[0])
	return answer(c, r, err, "%s is served as %s; accept or revert it", c.Args[0], p.Name)
}

// end accepts or reverts a publication.
func end(call func(bundle.Publication, context.Context) error,
	done string) func(context.Context, *cli.Call) error {
	return func(ctx context.Context, c *cli.Call) error {
		name := c.Args[0]
		return answer(c, map[string]string{c.Verb + "ed": name}, call(publication(c, name), ctx), done,
			name)
	}
}

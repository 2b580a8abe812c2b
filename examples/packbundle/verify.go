package main

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
)

type verifyResult struct {
	Bundle    string           `json:"bundle"`
	Signature string           `json:"signature"` // valid, unchecked or none
	Manifest  *bundle.Manifest `json:"manifest"`
	Findings  []bundle.Finding `json:"findings"`
}

func (c *command) runVerify(ctx context.Context) (any, error) {
	var o bundle.VerifyOptions
	if c.pub != "" {
		data, err := os.ReadFile(c.pub)
		if err != nil {
			return nil, err
		}
		if o.Key, err = bundle.ParsePublicKey(data); err != nil {
			return nil, fmt.Errorf("%s: %w", c.pub, err)
		}
	}
	m, findings, err := c.read(ctx, o)
	if err != nil {
		return nil, err
	}
	refused := slices.DeleteFunc(slices.Clone(findings), func(f bundle.Finding) bool { return f.Severity != bundle.Refused })
	if len(refused) > 0 {
		return nil, &bundle.Error{Op: "verify bundle", Kind: bundle.ErrManifest, Findings: refused}
	}
	result := verifyResult{Bundle: c.bundle, Manifest: m, Findings: findings}
	switch {
	case o.Key != nil:
		result.Signature = "valid"
	case m.Signature != "":
		result.Signature = "unchecked"
	default:
		result.Signature = "none"
	}
	if !c.json {
		c.printFindings(findings)
		c.stdout.Printf("%s: %s, %d files, checksum %s, signature: %s\n",
			c.bundle, c.stdout.Paint(cli.Good, "good"), len(m.FileList), m.Checksum, result.Signature)
	}
	return result, nil
}

// read verifies the bundle and validates what is in it.
func (c *command) read(ctx context.Context, o bundle.VerifyOptions) (*bundle.Manifest, []bundle.Finding, error) {
	f, err := os.Open(c.bundle)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	o.Progress = c.progress("verify")
	m, err := bundle.Verify(interruptible{ctx, f}, info.Size(), o)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.bundle, err)
	}
	files, err := zip.NewReader(f, info.Size())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.bundle, err)
	}
	return m, append([]bundle.Finding{}, m.Validate(files)...), nil // [] in JSON
}

// interruptible fails to read once the context has ended.
type interruptible struct {
	ctx context.Context
	io.ReaderAt
}

func (r interruptible) ReadAt(p []byte, at int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(p, at)
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
)

type buildResult struct {
	Bundle   string           `json:"bundle"`
	Name     string           `json:"name"` // publish it under this one
	Size     int64            `json:"size"`
	SHA256   string           `json:"sha256"`
	Manifest *bundle.Manifest `json:"manifest"`
	Findings []bundle.Finding `json:"findings"`
}

func (c *command) runBuild(ctx context.Context) (any, error) {
	data, err := os.ReadFile(c.manifest)
	if err != nil {
		return nil, err
	}
	m, err := bundle.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.manifest, err)
	}
	if c.dir == "" {
		c.dir = filepath.Dir(c.manifest)
	}
	files := os.DirFS(c.dir)
	o := bundle.Options{Progress: c.progress("pack")}
	if c.key != "" {
		data, err := os.ReadFile(c.key)
		if err != nil {
			return nil, err
		}
		if o.Signer, err = bundle.ParsePrivateKey(data); err != nil {
			return nil, fmt.Errorf("%s: %w", c.key, err)
		}
	}
	findings := append([]bundle.Finding{}, m.Validate(files)...) // [] in JSON
	written, err := bundle.WriteFile(ctx, c.out, files, m, o)
	if err != nil {
		return nil, err
	}
	c.stderr.Clear()
	result := buildResult{
		Bundle: c.out, Name: written.Name(strings.TrimSuffix(filepath.Base(c.out), ".zip")),
		Size: written.Size, SHA256: written.SHA256, Manifest: written.Manifest, Findings: findings,
	}
	if !c.json {
		c.printFindings(findings)
		signed := "unsigned"
		if o.Signer != nil {
			signed = "signed"
		}
		c.stdout.Printf("%s: %s, checksum %s, %s\npublish it as %s\n", c.out, cli.Bytes(result.Size), result.Manifest.Checksum, signed, result.Name)
	}
	return result, nil
}

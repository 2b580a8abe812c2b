// Package deptest guards the arrows of the project: which of our packages a
// package may reach, and which modules it may link. The rules are in its test.
package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Module is the import path of this project.
const Module = "example.com/tykupgrade"

// Package is what `go list -deps -json` says of one package.
type Package struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Module     *struct{ Path string }
}

// List returns the packages that match patterns and all that they depend on,
// test files left out. dir is any directory of the module; args go to go list.
func List(dir string, args ...string) (map[string]Package, error) {
	cmd := exec.Command("go", append([]string{"list", "-deps",
		"-json=ImportPath,Standard,Imports,Module"}, args...)...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	all := map[string]Package{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
}

// Reach returns what the package named by path links: our own packages,
// relative to [Module], and foreign modules, both sorted.
func Reach(all map[string]Package, path string) (own, modules []string) {
	seen := map[string]bool{}
	var walk func(string)
	walk = func(p string) {
		if seen[p] {
			return
		}
		seen[p] = true
		pkg := all[p]
		if rel, ok := strings.CutPrefix(p, Module+"/"); ok && p != path {
			own = append(own, rel)
		} else if pkg.Module != nil && pkg.Module.Path != Module {
			modules = append(modules, pkg.Module.Path)
		}
		for _, i := range pkg.Imports {
			walk(i)
		}
	}
	walk(path)
	slices.Sort(own)
	slices.Sort(modules)
	return own, slices.Compact(modules)
}

// Rule is what one package may reach. Each entry carries the reason.
type Rule struct {
	Own     map[string]string // our packages, relative to Module
	Modules map[string]string // foreign modules, direct and indirect
}

// anywhere is the one package of ours that needs no entry: it links package regexp only.
const anywhere = "internal/lazyregexp"

// Check compares what path reaches with its rule; each finding is one line.
func Check(all map[string]Package, path string, r Rule) []string {
	own, modules := Reach(all, path)
	own = slices.DeleteFunc(own, func(p string) bool { return p == anywhere })
	findings := compare(path, "package", own, r.Own)
	return append(findings, compare(path, "module", modules, r.Modules)...)
}

func compare(path, kind string, got []string, allowed map[string]string) []string {
	var findings []string
	for _, g := range got {
		if allowed[g] == "" {
			findings = append(findings, fmt.Sprintf("%s links %s %s, which its rule does not allow: "+
				"remove the import, or add it to the rule with the reason", path, kind, g))
		}
	}
	for a := range allowed {
		if !slices.Contains(got, a) {
			findings = append(findings, fmt.Sprintf("%s no longer links %s %s: remove it from the rule",
				path, kind, a))
		}
	}
	slices.Sort(findings)
	return findings
}

package lazyregexp_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lazyregexp"
)

func TestWrongExpression(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a wrong expression passes the tests of its package")
		}
	}()
	lazyregexp.New("(")
}

func TestReplace(t *testing.T) {
	t.Parallel()
	r := lazyregexp.New(`(\w+)@(\w+)`)
	if got, want := r.ReplaceAllString("ops@gw1", "$2 of $1"), "gw1 of ops"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A package keeps no regexp.MustCompile in a variable: each command would compile it at its start.
func TestNoneAtStart(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, root+"/")
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "internal/growth", "internal/lab",
			"internal/lazyregexp", "internal/tools", "examples/internal"}, rel):
			// No command links the others, and a copy of examples/internal cannot import these.
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(src, []byte("regexp.MustCompile(")) {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, src, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if g, ok := decl.(*ast.GenDecl); ok {
				ast.Inspect(g, func(n ast.Node) bool {
					s, ok := n.(*ast.SelectorExpr)
					if ok && s.Sel.Name == "MustCompile" {
						t.Errorf("%s compiles a regular expression at its start: use lazyregexp.New", rel)
					}
					return true
				})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

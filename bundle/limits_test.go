package bundle_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"example.com/tykupgrade/bundle"
)

// Write refuses what Verify with the same limits refuses, and nothing else.
func TestLimitsAgree(t *testing.T) {
	t.Parallel()
	text := func(size int) *fstest.MapFile { return &fstest.MapFile{Data: noise(1, size)} }
	many := func(n int) fstest.MapFS {
		src := fstest.MapFS{}
		for i := range n {
			src[fmt.Sprintf("f%04d", i)] = &fstest.MapFile{Data: []byte("x")}
		}
		return src
	}
	zeros := fstest.MapFS{"zeros": {Data: make([]byte, 2<<20)}}
	for name, c := range map[string]struct {
		src   fstest.MapFS
		twice bool // list the files twice
		long  int  // bytes of a hook's name
		o     bundle.Options
		bad   bool
	}{
		"as many files as allowed": {src: many(bundle.DefaultMaxFiles)},
		"one file more":            {src: many(bundle.DefaultMaxFiles + 1), bad: true},
		"three of three":           {src: many(3), o: bundle.Options{MaxFiles: 3}},
		"three of two":             {src: many(3), o: bundle.Options{MaxFiles: 2}, bad: true},
		"as large as allowed": {src: fstest.MapFS{"a": text(1000)}, o: bundle.Options{
			MaxSize: 1000}},
		"a byte more": {src: fstest.MapFS{"a": text(1001)}, o: bundle.Options{MaxSize: 1000},
			bad: true},
		"twice as large": {src: fstest.MapFS{"a": text(600)}, twice: true, o: bundle.Options{
			MaxSize: 1000}, bad: true},
		"zeros":            {src: zeros, bad: true},
		"zeros allowed":    {src: zeros, o: bundle.Options{MaxRatio: 2000}},
		"a large manifest": {src: many(1), long: 1 << 20, bad: true},
	} {
		m := goManifest("f0000")
		m.Middleware.Driver = "otto"
		m.Middleware.Post = []bundle.Hook{{Name: "f" + strings.Repeat("x", c.long), Path: "f0000"}}
		m.FileList = nil
		for file := range c.src {
			m.FileList = append(m.FileList, file)
			if c.twice {
				m.FileList = append(m.FileList, file)
			}
		}
		var zip bytes.Buffer
		_, err := bundle.Write(&zip, c.src, m, c.o)
		if c.bad != errors.Is(err, bundle.ErrLimit) || !c.bad && err != nil {
			t.Errorf("%s: Write: %v", name, err)
		}
		// What Write made, or would have made, by the same limits.
		wide := bundle.Options{MaxSize: 1 << 30, MaxFiles: 1 << 20, MaxRatio: 1 << 20}
		if c.bad {
			zip.Reset()
			if _, err := bundle.Write(&zip, c.src, m, wide); err != nil {
				if c.long == 0 {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
		}
		_, err = verify(zip.Bytes(), bundle.VerifyOptions{MaxSize: c.o.MaxSize, MaxFiles: c.o.MaxFiles,
			MaxRatio: c.o.MaxRatio})
		if c.bad != errors.Is(err, bundle.ErrLimit) || !c.bad && err != nil {
			t.Errorf("%s: Verify: %v", name, err)
		}
	}
	if _, err := bundle.Write(&bytes.Buffer{}, many(1), goManifest("f0000"),
		bundle.Options{MaxSize: -1}); err == nil {
		t.Error("a negative limit was accepted")
	}
}

// Command peak writes a bundle with a plugin of 80 MB and prints the line of
// /proc/self/status with the peak of its memory.
package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"time"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
)

const peakSize = 80 << 20

func main() {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		log.Fatal(err)
	}
	m := &bundle.Manifest{FileList: []string{"plugin.so"}}
	m.Middleware.Driver = "goplugin"
	m.Middleware.Post = []bundle.Hook{{Name: "AddFooBarHeader", Path: "plugin.so"}}
	result, err := bundle.Write(io.Discard, large{self}, m, bundle.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if result.Size < peakSize/10 {
		log.Fatalf("only %d bytes", result.Size)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		log.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if bytes.HasPrefix(line, []byte("VmHWM:")) {
			fmt.Printf("%s", line)
		}
	}
}

// endless does not shrink, which takes a third of the time.
var endless = rand.NewChaCha8([32]byte{})

// large serves a shared object of 80 MB: a quarter of it repeats content, which
// takes the most memory.
type large struct{ content *os.File }

func (l large) Open(string) (fs.File, error) {
	return &largeFile{head: bundletest.Plugin{}.Bytes(), content: l.content, left: peakSize}, nil
}

type largeFile struct {
	head    []byte
	content *os.File
	at      int64
	left    int64
}

func (f *largeFile) Read(p []byte) (n int, err error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.left)]
	if len(f.head) > 0 {
		n = copy(p, f.head)
		f.head = f.head[n:]
	} else if f.left < peakSize*3/4 {
		n, _ = endless.Read(p)
	} else {
		n, err = f.content.ReadAt(p, f.at)
		if f.at += int64(n); err == io.EOF {
			f.at, err = 0, nil
		}
	}
	f.left -= int64(n)
	return n, err
}

func (f *largeFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *largeFile) Close() error               { return nil }
func (f *largeFile) Name() string               { return "plugin.so" }
func (f *largeFile) Size() int64                { return peakSize }
func (f *largeFile) Mode() fs.FileMode          { return 0o644 }
func (f *largeFile) ModTime() time.Time         { return time.Time{} }
func (f *largeFile) IsDir() bool                { return false }
func (f *largeFile) Sys() any                   { return nil }

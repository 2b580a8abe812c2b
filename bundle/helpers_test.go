package bundle_test

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"testing/fstest"

	"example.com/tykupgrade/bundle"
)

// sharedObject returns a file that starts as a 64-bit ELF shared object does.
func sharedObject(content string) []byte {
	h := make([]byte, 64)
	copy(h, elf.ELFMAG)
	h[elf.EI_CLASS], h[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	binary.LittleEndian.PutUint16(h[16:], uint16(elf.ET_DYN))
	return append(h, content...)
}

// goManifest is a manifest with one post hook that loads the first file.
func goManifest(files ...string) *bundle.Manifest {
	m := &bundle.Manifest{FileList: files}
	m.Middleware.Driver = "goplugin"
	m.Middleware.Post = []bundle.Hook{{Name: "AddFooBarHeader", Path: files[0]}}
	return m
}

// files makes a source of shared objects, each with its name as content.
func files(names ...string) fstest.MapFS {
	src := fstest.MapFS{}
	for _, name := range names {
		src[name] = &fstest.MapFile{Data: sharedObject(name)}
	}
	return src
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

package hostfiles_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"testing/fstest"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
)

// gateway stands for a host's file system; on a real one it is os.DirFS("/").
var gateway = fstest.MapFS{
	"opt/tyk-gateway/tyk.conf":               {Data: []byte(`{"listen_port":8080}`), Mode: 0o640},
	"opt/tyk-gateway/policies/policies.json": {Data: []byte(`{}`), Mode: 0o640},
}

// exampleSet takes a set of the gateway's files in a directory of its own.
func exampleSet() (*backup.Set, func()) {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	set, err := backup.Take(context.Background(), dir, backup.Options{}, &hostfiles.Source{
		FS: gateway})
	if err != nil {
		log.Fatal(err)
	}
	return set, func() { _ = os.RemoveAll(dir) }
}

func ExampleSource() {
	src := &hostfiles.Source{FS: gateway, Paths: []string{"/opt/tyk-gateway/*.conf"}}
	estimate, err := src.Plan(context.Background())
	fmt.Println(estimate.Items, estimate.Bytes, err)
	_, err = (&hostfiles.Source{FS: gateway, Paths: []string{"/etc/missing"}}).
		Plan(context.Background())
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// 1 20 <nil>
	// true
}

func ExampleRestore() {
	set, remove := exampleSet()
	defer remove()
	root, err := os.MkdirTemp("", "root-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	to := &hostfiles.Restore{Root: root, Only: []string{"/opt/*/tyk.conf"}}
	stored, _ := set.Component(to.Name())
	items, err := to.Plan(context.Background(), stored)
	for _, i := range items {
		fmt.Println(i.Action, i.Name, err)
	}
	// Output:
	// skip /opt/tyk-gateway/policies/policies.json <nil>
	// create /opt/tyk-gateway/tyk.conf <nil>
}

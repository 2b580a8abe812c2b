package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"
	"time"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/redisdb"
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

// Configuration files and Redis in one set before an upgrade, and back.
func Example() {
	upgrade := func(ctx context.Context, gateway backup.Runner, redisURI string) error {
		client, err := redisdb.NewClient(redisURI, nil)
		if err != nil {
			return err
		}
		defer client.Close()
		set, err := backup.Take(ctx, "/var/backups/tyk", backup.Options{Label: "before 5.3.0"},
			&hostfiles.Source{Component: "config/gateway-1", Runner: gateway}, // Tyk's files on another host
			&redisdb.Source{Client: client})
		if err != nil {
			return err // and there is no set
		}
		// … the upgrade; and if it went wrong:
		report, err := set.Restore(ctx, backup.RestoreOptions{},
			&hostfiles.Restore{Component: "config/gateway-1", Runner: gateway,
				Rescue: "/var/backups/tyk/rescued"},
			&redisdb.Live{Client: client, Replace: true, StateDir: "/var/lib/tykupgrade/redis"})
		fmt.Println(report.Components, err) // every item, and whether the result is verified
		return err
	}
	fmt.Println(upgrade(context.Background(), nil, "not a URI"))
	// Output: read the Redis URI: unknown form; write it as redis://user:password@host:6379/0, rediss:// for TLS, with special characters of the password percent-encoded
}

func ExampleTake() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	set, err := backup.Take(context.Background(), dir, backup.Options{Label: "before 5.3.0"},
		&hostfiles.Source{FS: gateway})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range set.Files {
		fmt.Println(f.Path, f.Mode, f.Size)
	}
	// Output:
	// config/opt/tyk-gateway/policies/policies.json 0640 2
	// config/opt/tyk-gateway/tyk.conf 0640 20
}

func ExampleOpen() {
	taken, remove := exampleSet()
	defer remove()
	set, err := backup.Open(taken.Dir)
	if err != nil {
		log.Fatal(err)
	}
	c := set.Components[0]
	fmt.Println(c.Name, c.Kind, c.Items, c.Consistency)
	_, err = backup.Open(filepath.Dir(taken.Dir))
	fmt.Println(errors.Is(err, backup.ErrNotASet))
	// Output:
	// config files 2 per_item
	// true
}

func ExampleList() {
	set, remove := exampleSet()
	defer remove()
	sets, err := backup.List(filepath.Dir(set.Dir))
	fmt.Println(len(sets), err)
	// Output: 1 <nil>
}

func ExampleSet_Verify() {
	set, remove := exampleSet()
	defer remove()
	fmt.Println(set.Verify(context.Background(), backup.VerifyOptions{}))
	if err := os.Truncate(filepath.Join(set.Dir, "config/opt/tyk-gateway/tyk.conf"), 10); err != nil {
		log.Fatal(err)
	}
	fmt.Println(set.Verify(context.Background(), backup.VerifyOptions{}))
	// Output:
	// <nil>
	// verify config/opt/tyk-gateway/tyk.conf: the set is damaged: it has 10 bytes, the manifest says 20
}

func ExampleSet_Restore() {
	set, remove := exampleSet()
	defer remove()
	root, err := os.MkdirTemp("", "root-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	report, err := set.Restore(context.Background(), backup.RestoreOptions{DryRun: true},
		&hostfiles.Restore{Root: root})
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range report.Components {
		for _, i := range c.Items {
			fmt.Println(c.State, i.Action, i.Name)
		}
	}
	// Output:
	// planned create /opt/tyk-gateway/policies/policies.json
	// planned create /opt/tyk-gateway/tyk.conf
	// planned create /opt/tyk-gateway/policies/
}

func ExamplePrune() {
	set, remove := exampleSet()
	defer remove()
	out, err := backup.Prune(context.Background(), filepath.Dir(set.Dir), backup.Policy{Keep: 7,
		MaxAge: 30 * 24 * time.Hour})
	fmt.Println(len(out.Kept), len(out.Removed), err)
	// Output: 1 0 <nil>
}

func ExampleSet_Export() {
	set, remove := exampleSet()
	defer remove()
	ctx := context.Background()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		log.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(set.Dir), "set.tar.zst.age")
	if err := set.Export(ctx, file, backup.ExportOptions{Recipients: []age.Recipient{
		identity.Recipient()}}); err != nil {
		log.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	again, err := backup.Import(ctx, filepath.Join(filepath.Dir(set.Dir), "elsewhere"),
		bytes.NewReader(data), backup.ImportOptions{Identities: []age.Identity{identity}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(again.ID == set.ID)
	// Output: true
}

func ExampleImport() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	_, err = backup.Import(context.Background(), dir, bytes.NewReader([]byte("not an export")),
		backup.ImportOptions{})
	fmt.Println(errors.Is(err, backup.ErrNotASet))
	// Output: true
}

func ExampleParseManifest() {
	m, err := backup.ParseManifest(
		[]byte(`{"schema":1,"id":"20261123T060000Z-0badcafe","components":[],"files":[]}`))
	fmt.Println(m.ID, err)
	// Output: 20261123T060000Z-0badcafe <nil>
}

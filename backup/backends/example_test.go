package backends_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backends"
	"example.com/tykupgrade/backup/mongodb"
)

// A set of the gateway's files and two databases before an upgrade, and back.
func Example() {
	upgrade := func(ctx context.Context, gateway backup.Runner, redisURI string) error {
		b, err := backends.Open(backends.Config{
			Files: []backends.Files{{Component: "config/gateway-1", Runner: gateway}},
			Redis: &backends.Redis{URI: redisURI, Replace: true},
			Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://tyk@10.0.0.7/?tls=true"},
				Mode: mongodb.Replace}})
		if err != nil {
			return err
		}
		defer b.Close()
		set, err := backup.Take(ctx, "/var/backups/tyk", backup.Options{Label: "before 5.3.0"},
			b.Sources()...)
		if err != nil {
			return err // and there is no set
		}
		// … the upgrade; and if it went wrong:
		report, err := set.Restore(ctx, backup.RestoreOptions{}, b.Restorers("/var/backups/rescued")...)
		fmt.Print(report)
		return err
	}
	fmt.Println(upgrade(context.Background(), nil, "10.0.0.5:6379"))
	// Output: read the Redis URI: unknown form; write it as redis://user:password@host:6379/0, rediss:// for TLS, with special characters of the password percent-encoded
}

// A command of a team takes and compares sets with the flags of takebackup.
func ExampleFlags() {
	root, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(root)
	_ = os.MkdirAll(filepath.Join(root, "opt/tyk-pump"), 0o755)
	_ = os.WriteFile(filepath.Join(root, "opt/tyk-pump/pump.conf"), []byte("{}"), 0o600)

	var f backends.Flags
	fs := flag.NewFlagSet("nightly", flag.ContinueOnError)
	f.Take(fs)
	if err := fs.Parse([]string{"-config", "-config-name", "config/pump-1", "-root", root}); err != nil {
		fmt.Println(err)
		return
	}
	conf, err := f.Config("NIGHTLY", os.Getenv)
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := backends.Open(conf)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	set, err := backup.Take(context.Background(), filepath.Join(root, "sets"), backup.Options{},
		b.Sources()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, file := range set.Files {
		fmt.Println(file.Path)
	}
	// Output: config/pump-1/opt/tyk-pump/pump.conf
}

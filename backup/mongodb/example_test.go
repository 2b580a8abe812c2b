package mongodb_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// dashboard stands for the MongoDB server of a Tyk dashboard.
func dashboard() *mongolab.Server {
	server, err := mongolab.Start(mongolab.Options{})
	if err != nil {
		log.Fatal(err)
	}
	raw, err := bson.Marshal(bson.D{{Key: "_id", Value: 1}, {Key: "name", Value: "petstore"}})
	if err != nil {
		log.Fatal(err)
	}
	server.Insert("tyk_analytics", "tyk_apis", raw)
	return server
}

// A dump before the upgrade, and back: the live collections stay until those
// from the set are compared.
func ExampleSource() {
	server := dashboard()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	// mongodb://user@host:27017/?tls=true, and Password apart
	mongo := mongodb.Server{URI: server.URI()}
	set, err := backup.Take(ctx, dir, backup.Options{Label: "before 5.3.0"},
		&mongodb.Source{Server: mongo})
	if err != nil {
		log.Fatal(err) // and there is no set
	}
	var details mongodb.Details
	if err := set.Components[0].DecodeDetails(&details); err != nil {
		log.Fatal(err)
	}
	fmt.Println(details.Collections[0].Name, details.Collections[0].Count,
		set.Components[0].Consistency)

	// … the upgrade; and if it went wrong:
	report, err := set.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: mongo,
		Mode: mongodb.Replace})
	if err != nil {
		log.Fatal(err)
	}
	for _, item := range report.Components[0].Items {
		fmt.Println(item.Action, item.Name, item.Count, report.Components[0].State)
	}
	// Output:
	// tyk_apis 1 snapshot
	// replace tyk_analytics.tyk_apis 1 verified
}

// A dump that mongodump wrote is checked before anything is restored from it.
func ExampleOpenDump() {
	server := dashboard()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	set, err := backup.Take(ctx, dir, backup.Options{}, &mongodb.Source{Server: mongodb.Server{
		URI: server.URI()}})
	if err != nil {
		log.Fatal(err)
	}

	dump, err := mongodb.OpenDump(ctx, filepath.Join(set.Dir, "mongo"), mongodb.DumpOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range dump.Collections() {
		fmt.Println(c.DB, c.Name, c.Count)
	}
	report, err := dump.Restore(ctx, backup.RestoreOptions{DryRun: true},
		&mongodb.Restore{Server: mongodb.Server{URI: server.URI()}, Mode: mongodb.Replace})
	fmt.Println(report.State, err)
	// Output:
	// tyk_analytics tyk_apis 1
	// planned <nil>
}

// The lines of the README, which need a server.
func backupAndRestoreMongo(ctx context.Context, password string) error {
	mongo := mongodb.Server{URI: "mongodb://tyk@10.0.0.7:27017/?tls=true", Password: password}
	set, err := backup.Take(ctx, "/var/backups/tyk", backup.Options{Label: "before 5.3.0"},
		&mongodb.Source{Server: mongo}) // tyk_analytics; more by Databases, Include, Exclude
	if err != nil {
		return err // and there is no set
	}
	// … the upgrade; and if it went wrong:
	report, err := set.Restore(ctx, backup.RestoreOptions{},
		// built and compared next to the live collections, then swapped
		&mongodb.Restore{Server: mongo, Mode: mongodb.Replace})
	fmt.Println(report.Components, err)
	// or what mongodump --out wrote:
	dump, err := mongodb.OpenDump(ctx, "/var/backups/dump", mongodb.DumpOptions{})
	if err != nil {
		return err // nothing was written to the server
	}
	_, err = dump.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: mongo,
		Mode: mongodb.Replace})
	return err
}

var _ = backupAndRestoreMongo

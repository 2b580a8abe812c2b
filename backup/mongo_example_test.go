package backup_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
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
// from the set are proven.
func ExampleMongo() {
	server := dashboard()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	mongo := backup.MongoServer{URI: server.URI()} // mongodb://user@host:27017/?tls=true, and Password apart
	set, err := backup.Take(ctx, dir, backup.Options{Label: "before 5.3.0"}, &backup.Mongo{Server: mongo})
	if err != nil {
		log.Fatal(err) // and there is no set
	}
	var details backup.MongoDetails
	if err := set.Components[0].DecodeDetails(&details); err != nil {
		log.Fatal(err)
	}
	fmt.Println(details.Collections[0].Name, details.Collections[0].Count, set.Components[0].Consistency)

	// … the upgrade; and if it went wrong:
	report, err := set.Restore(ctx, backup.RestoreOptions{}, &backup.MongoRestore{Server: mongo, Mode: backup.MongoReplace})
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

// A restore into another database, to look at or to compare with.
func ExampleMongoRestore() {
	server := dashboard()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	mongo := backup.MongoServer{URI: server.URI()}
	set, err := backup.Take(context.Background(), dir, backup.Options{}, &backup.Mongo{Server: mongo})
	if err != nil {
		log.Fatal(err)
	}
	_, err = set.Restore(context.Background(), backup.RestoreOptions{},
		&backup.MongoRestore{Server: mongo, Rename: map[string]string{"tyk_analytics.*": "scratch.*"}})
	fmt.Println(server.Collections("scratch"), err)
	// Output: [tyk_apis] <nil>
}

// A dump that mongodump wrote is checked before anything is restored from it.
func ExampleOpenMongoDump() {
	server := dashboard()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	set, err := backup.Take(ctx, dir, backup.Options{}, &backup.Mongo{Server: backup.MongoServer{URI: server.URI()}})
	if err != nil {
		log.Fatal(err)
	}

	dump, err := backup.OpenMongoDump(ctx, filepath.Join(set.Dir, "mongo"), backup.MongoDumpOptions{}) // or an archive
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range dump.Collections() {
		fmt.Println(c.DB, c.Name, c.Count)
	}
	report, err := dump.Restore(ctx, backup.RestoreOptions{DryRun: true},
		&backup.MongoRestore{Server: backup.MongoServer{URI: server.URI()}, Mode: backup.MongoReplace})
	fmt.Println(report.State, err)
	// Output:
	// tyk_analytics tyk_apis 1
	// planned <nil>
}

// The lines of the README, which need a server.
func backupAndRestoreMongo(ctx context.Context, password string) error {
	mongo := backup.MongoServer{URI: "mongodb://tyk@10.0.0.7:27017/?tls=true", Password: password}
	set, err := backup.Take(ctx, "/var/backups/tyk", backup.Options{Label: "before 5.3.0"},
		&backup.Mongo{Server: mongo}) // tyk_analytics; more by Databases, Include, Exclude, UsersAndRoles
	if err != nil {
		return err // and there is no set
	}
	// … the upgrade; and if it went wrong:
	report, err := set.Restore(ctx, backup.RestoreOptions{},
		&backup.MongoRestore{Server: mongo, Mode: backup.MongoReplace}) // built and proven beside the live collections, then swapped
	fmt.Println(report.Components, err)
	// or what mongodump wrote, a directory or an --archive:
	dump, err := backup.OpenMongoDump(ctx, "/var/backups/dump", backup.MongoDumpOptions{})
	if err != nil {
		return err // nothing was written to the server
	}
	_, err = dump.Restore(ctx, backup.RestoreOptions{}, &backup.MongoRestore{Server: mongo, Rename: map[string]string{"tyk_analytics.*": "scratch.*"}})
	return err
}

var _ = backupAndRestoreMongo

package postgres_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
)

func ctx() context.Context { return context.Background() }

// The dashboard's database goes into a set before the upgrade and comes back
// after a failed one.
func Example() {
	server := postgres.Server{URI: "postgresql://tyk@10.0.0.7/tyk_analytics?sslmode=verify-full",
		Password: os.Getenv("TYK_DB_PASSWORD")}
	set, err := backup.Take(ctx(), "/var/backups/tyk", backup.Options{Label: "before 5.3.0"},
		&postgres.Source{Server: server})
	if err != nil {
		log.Print(err) // and there is no set
		return
	}
	// … the upgrade; and if it went wrong:
	report, err := set.Restore(ctx(), backup.RestoreOptions{},
		// built and compared next to the live one, then swapped
		&postgres.Restore{Server: server, Replace: true})
	fmt.Println(report.Components, err)
}

// A restore that is kept open: the replaced database stays until somebody decides, in
// this process or a later one.
func ExampleRestore() {
	set, err := backup.Open("/var/backups/tyk/20261129T060000Z-0123abcd")
	if err != nil {
		log.Print(err)
		return
	}
	to := &postgres.Restore{Server: postgres.Server{Service: "tyk"}, Replace: true, EndClients: true}
	report, err := set.Restore(ctx(), backup.RestoreOptions{Keep: true}, to)
	if err != nil {
		log.Print(err) // the live database is as it was
		return
	}
	healthy := true // what the dashboard says
	if healthy {
		err = set.Accept(ctx(), to)
	} else {
		report, err = set.Undo(ctx(), to)
	}
	log.Print(report.Components, err)
}

// The deepest verification without touching the live database: restored under a name of
// its own, compared and dropped.
func ExampleScratch() {
	set, err := backup.Open("/var/backups/tyk/20261129T060000Z-0123abcd")
	if err == nil {
		scratch := &postgres.Scratch{Server: postgres.Server{Service: "tyk"}}
		err = set.Verify(ctx(), backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{
			scratch}})
	}
	log.Print(err)
}

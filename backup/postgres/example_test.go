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
	server := postgres.Server{URI: "postgresql://tyk@10.0.0.7/tyk_analytics?sslmode=verify-full", Password: os.Getenv("TYK_DB_PASSWORD")}
	set, err := backup.Take(ctx(), "/var/backups/tyk", backup.Options{Label: "before 5.3.0"},
		&postgres.Source{Server: server})
	if err != nil {
		log.Print(err) // and there is no set
		return
	}
	// … the upgrade; and if it went wrong:
	report, err := set.Restore(ctx(), backup.RestoreOptions{},
		&postgres.Restore{Server: server, Replace: true}) // built and compared next to the live one, then swapped
	fmt.Println(report.Components, err)
}

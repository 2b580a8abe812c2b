package mongodb_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

func TestConformanceMongo(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			t.Parallel()
			const secret = "correct horse battery staple"
			s := smallMongo(t, mongolab.Options{User: "tyk", Password: secret})
			server := mongodb.Server{URI: strings.Replace(s.URI(), "mongodb://",
				"mongodb://tyk:correct%20horse%20battery%20staple@", 1)}
			wrong := mongodb.Server{URI: strings.Replace(s.URI(), "mongodb://", "mongodb://nobody@", 1),
				Password: secret}
			backuptest.Run(t, backuptest.Case{
				Source: func(*testing.T) backup.Source { return &mongodb.Source{Server: server, Plain: plain} },
				Restorer: func(t *testing.T) backup.Restorer {
					return &mongodb.Restore{Server: uri(mongoServer(t, mongolab.Options{}))}
				},
				Change: func(t *testing.T) {
					s.Insert("tyk_analytics", "apis", doc(t, bson.D{{Key: "_id", Value: "new"}}))
				},
				Broken: func(*testing.T) backup.Source { return &mongodb.Source{Server: wrong, Plain: plain} },
				Secret: secret, Variant: plain, Cancels: 6,
			})
		})
	}
}

// mongoEnv tells the killed helper where its MongoDB is.
const mongoEnv = "BACKUP_TEST_MONGODB"

func TestKilledMongoHelper(t *testing.T) {
	backuptest.Helper(func() []backup.Source {
		return []backup.Source{&mongodb.Source{Server: mongodb.Server{URI: os.Getenv(mongoEnv)}}}
	})
}

func TestKilledMongo(t *testing.T) {
	t.Parallel()
	backuptest.Kill(t, "TestKilledMongoHelper", moments(6), mongoEnv+"="+mongoWith(t, mongolab.Options{},
		30).URI())
}

func TestDamagedMongo(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		s := mongoWith(t, mongolab.Options{}, 30)
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
			&mongodb.Source{Server: uri(s), Plain: plain})
		if err != nil {
			t.Fatal(err)
		}
		backuptest.Damage(t, set, 100)
	}
}

package backends

import (
	"log/slog"

	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/backup/redisdb"
)

// Config names what is taken, compared and restored. Its zero value names nothing. A Config for
// a restore has the values of the one for the backup.
type Config struct {
	Files    []Files // one for each host
	Redis    *Redis
	Mongo    *Mongo
	Postgres *Postgres

	Log *slog.Logger // nil: silent
}

// Files are the configuration files of one host: see [hostfiles.Source] and [hostfiles.Restore].
type Files struct {
	Component string        // name in the set; empty: "config"
	Root      string        // the directory that stands for / on this machine; empty: "/"
	Runner    backup.Runner // another host; Root is empty then

	Paths []string // what is taken, and what a restore may write; empty: Tyk's files
	Only  []string // what a restore writes; empty: everything that the set has

	DropEdits bool // an undo also drops what was edited since the restore
}

// Redis is one server, the master that Sentinel names, or a cluster.
type Redis struct {
	Component     string            // name in the set; empty: "redis"
	URI           string            // as [redisdb.NewClient] takes it
	CA, Cert, Key string            // PEM files for TLS, as [redisdb.ReadTLS] takes them
	Commands      map[string]string // as in [redisdb.Source]
	Sample        int               // compare so many keys, chosen at random; 0: all

	// for taking, as in [redisdb.Source]
	Method     redisdb.Method
	AllowStale bool
	Path       string

	// for restoring
	Replace bool   // also a server that holds keys
	Offline bool   // stop the server of this machine, place the file and start it; default: live
	Dir     string // Offline: the server's data directory, as in [redisdb.Server]
	Unit    string // Offline: the unit of systemd; empty: "redis-server"
}

// Mongo is a deployment of MongoDB. Its fields are those of [mongodb.Source] and
// [mongodb.Restore].
type Mongo struct {
	Component        string
	Server           mongodb.Server
	Include, Exclude []string
	Parallel         int

	// for taking; Prune uses the databases, too
	Databases      []string
	ReadPreference *readpref.ReadPref
	Snapshot       mongodb.SnapshotMode
	Plain          bool

	// for restoring
	Mode                            mongodb.Mode
	NoIndexes, NoOptions, DropExtra bool
	NoPrelude                       bool // of a mongodump directory: see [mongodb.DumpOptions]
}

// Postgres is a PostgreSQL server. Its fields are those of [postgres.Source] and
// [postgres.Restore].
type Postgres struct {
	Component string
	Server    postgres.Server
	Databases []string
	NoOwner   bool

	// for restoring
	Replace, EndClients bool
}

package backup

import (
	"context"
	"path"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"
)

// Files of the users and roles of one database, as after mongodump
// --dumpDbUsersAndRoles.
var authFiles = []struct{ collection, file string }{
	{"system.users", "$admin.system.users"},
	{"system.roles", "$admin.system.roles"},
	{"system.version", "$admin.system.version"},
}

func (d *dumping) dumpUsers(ctx context.Context, db string) error {
	var packer *gzip.Writer
	if !d.m.Plain {
		packer = gzip.NewWriter(nil)
	}
	for _, a := range authFiles {
		filter := bson.D{{Key: "db", Value: db}}
		if a.collection == "system.version" {
			filter = bson.D{}
		}
		if _, _, err := d.dumpDocuments(ctx, "admin."+a.collection, "admin", a.collection, path.Join(db, a.file), 0, filter, packer); err != nil {
			return d.conn.fail("dump", "admin."+a.collection, err)
		}
	}
	return nil
}

// ttlRule is one TTL index: documents go once the date in the field is this
// many seconds old.
type ttlRule struct {
	field   []string
	seconds int64
}

package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"
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
		part := documentsOf{label: "admin." + a.collection, db: "admin", coll: a.collection, file: path.Join(db, a.file), filter: filter}
		if _, _, err := d.dumpDocuments(ctx, part, packer); err != nil {
			return d.conn.fail("dump", "admin."+a.collection, err)
		}
	}
	return nil
}

// users merges the users and roles of one database into the server's own, by
// the way that mongorestore takes: temporary collections in admin and an
// internal command, because admin.system.users takes no inserts.
func (r *restoring) users(ctx context.Context, db string) (err error) {
	command := bson.D{{Key: "_mergeAuthzCollections", Value: 1}}
	var token [4]byte
	_, _ = rand.Read(token[:]) // never fails since Go 1.24
	admin := r.conn.Database("admin")
	for _, a := range authFiles[:2] {
		temp := tempPrefix + hex.EncodeToString(token[:]) + "_" + strings.TrimPrefix(a.collection, "system.")
		coll := admin.Collection(temp, options.Collection().SetWriteConcern(writeconcern.Majority()))
		defer func() {
			ctx, cancel := aside(ctx)
			defer cancel()
			if dropped := r.drop(ctx, "admin", temp); dropped != nil {
				err = errors.Join(err, fmt.Errorf("drop admin.%s, which holds credentials: %w", temp, r.conn.scrub(dropped)))
			}
		}()
		n := 0
		if err := r.data.feedAuth(ctx, db, a.file, func(doc []byte) error {
			n++
			_, err := coll.InsertOne(ctx, bson.Raw(bytes.Clone(doc)))
			return err
		}); err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		field := "tempUsersCollection"
		if a.collection == "system.roles" {
			field = "tempRolesCollection"
		}
		command = append(command, bson.E{Key: field, Value: "admin." + temp})
	}
	if len(command) == 1 {
		return nil
	}
	_, err = r.conn.admin(ctx, append(command, bson.E{Key: "db", Value: db}, bson.E{Key: "drop", Value: false}, majority))
	return err
}

// sameUsers looks for every user and role of the dump on the server.
func (r *restoring) sameUsers(ctx context.Context, db string) error {
	for _, a := range authFiles[:2] {
		want := map[string]bson.Raw{}
		if err := r.data.feedAuth(ctx, db, a.file, func(doc []byte) error {
			id, _ := bson.Raw(doc).Lookup("_id").StringValueOK()
			want[id] = bytes.Clone(doc)
			return nil
		}); err != nil {
			return err
		}
		if err := r.reader.each(ctx, "admin", a.collection, bson.D{{Key: "db", Value: db}}, 0, func(doc []byte) error {
			id, _ := bson.Raw(doc).Lookup("_id").StringValueOK()
			if bytes.Equal(want[id], doc) {
				delete(want, id)
			}
			return nil
		}); err != nil {
			return err
		}
		for id := range want {
			return fmt.Errorf("%w: %s of admin.%s is missing or different", ErrDiffers, id, a.collection)
		}
	}
	return nil
}

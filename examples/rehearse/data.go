package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	mongooptions "go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/redisdb"
	labmongo "example.com/tykupgrade/internal/lab/mongo"
	labredis "example.com/tykupgrade/internal/lab/redis"
	"example.com/tykupgrade/internal/lab/stage"
)

// stores are the databases, and the backup of them.
type stores struct {
	redisServer *labredis.Server // nil: there is no redis-server
	redis       *redis.Client
	mongo       *mongo.Client
	set         *backup.Set
	dir         string
}

func program(name string) string { return stage.Program(name) }

func (d *stores) redisAddr() string {
	if d.redisServer == nil {
		return ""
	}
	return d.redisServer.Addr
}

func (d *stores) stubs() string {
	if d.redis == nil {
		return "MongoDB; files are real, Redis is left out"
	}
	return "MongoDB; files and Redis are real"
}

func (d *stores) db() *mongo.Database { return d.mongo.Database(mongodb.DefaultDatabase) }

// startRedis starts a server and fills it as a gateway does.
func (r *rehearsal) startRedis(ctx context.Context, s *Step) error {
	if r.parts.redis != "" {
		s.skip(r.parts.redis)
		return nil
	}
	dir := filepath.Join(r.dir, "redis")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	d := &r.store
	server, err := labredis.Run(program("redis-server"), dir)
	if err != nil {
		return err
	}
	r.ports = append(r.ports, server.Addr)
	d.redisServer, d.redis = server, redis.NewClient(&redis.Options{Addr: server.Addr})
	r.later(func(context.Context) error { server.Kill(); return d.redis.Close() })
	const keys = 500
	_, err = d.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range keys {
			p.Set(ctx, fmt.Sprintf("apikey-%06d", i),
				fmt.Sprintf(`{"org_id": "1", "alias": "customer %d", "quota_remaining": %d}`, i, i%7*100), 0)
		}
		p.SAdd(ctx, "redisCluster.active-nodes", "gateway-1", "gateway-2")
		p.HSet(ctx, "analytics-totals", "requests", 123456, "errors", 12)
		p.RPush(ctx, "analytics-tyk-system-analytics", "record 1", "record 2", "record 3")
		p.ZAdd(ctx, "rate-limit-1", redis.Z{Score: 1, Member: "a"}, redis.Z{Score: 2, Member: "b"})
		p.Set(ctx, "quota-000001", "17", 12*time.Hour)
		return nil
	})
	if err != nil {
		return err
	}
	n, err := d.redis.DBSize(ctx).Result()
	s.say("%d keys of five types at %s", n, server.Addr)
	return err
}

// startMongo starts the stub and fills it as a dashboard does.
func (r *rehearsal) startMongo(ctx context.Context, s *Step) error {
	s.Stub = "a MongoDB server inside of this process, which no package registry has"
	server, err := labmongo.Start(labmongo.Options{})
	if err != nil {
		return err
	}
	r.later(func(context.Context) error { server.Close(); return nil })
	r.ports = append(r.ports, server.Addr())
	d := &r.store
	if d.mongo, err = mongo.Connect(ctx, mongooptions.Client().ApplyURI(server.URI())); err != nil {
		return err
	}
	r.later(func(ctx context.Context) error { return d.mongo.Disconnect(ctx) })
	total := 0
	for _, c := range []struct {
		name string
		n    int
		doc  func(int) bson.D
	}{
		{"tyk_apis", 40, func(i int) bson.D {
			return bson.D{{Key: "_id", Value: i}, {Key: "api_id", Value: fmt.Sprintf("api-%03d", i)},
				{Key: "active", Value: i%3 != 0}, {Key: "custom_middleware_bundle", Value: "foobar.zip"}}
		}},
		{"tyk_policies", 12, func(i int) bson.D {
			return bson.D{{Key: "_id", Value: i}, {Key: "rate", Value: float64(i) * 100}, {Key: "tags",
				Value: bson.A{"gold", i}}}
		}},
		{"tyk_analytics_users", 3, func(i int) bson.D {
			return bson.D{{Key: "_id", Value: i}, {Key: "email", Value: fmt.Sprintf("user%d@example.com",
				i)}, {Key: "created", Value: time.Date(2024, 2, 6, 0, 0, i, 0, time.UTC)}}
		}},
	} {
		var docs []any
		for i := range c.n {
			docs = append(docs, c.doc(i))
		}
		if _, err := d.db().Collection(c.name).InsertMany(ctx, docs); err != nil {
			return err
		}
		total += c.n
	}
	index := mongo.IndexModel{Keys: bson.D{{Key: "api_id", Value: 1}}, Options: mongooptions.Index().
		SetUnique(true)}
	if _, err := d.db().Collection("tyk_apis").Indexes().CreateOne(ctx, index); err != nil {
		return err
	}
	s.say("%d documents in 3 collections of %s", total, mongodb.DefaultDatabase)
	return nil
}

// migrate imitates a new dashboard's migration of the databases at its start. A reinstall of the
// old package does not undo it.
func (d *stores) migrate(ctx context.Context) (string, error) {
	apis, policies := d.db().Collection("tyk_apis"), d.db().Collection("tyk_policies")
	_, err := apis.ReplaceOne(ctx, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "_id", Value: 1},
		{Key: "api_id", Value: "api-001"}, {Key: "schema", Value: 5}})
	if err == nil {
		_, err = policies.DeleteMany(ctx, bson.D{{Key: "_id", Value: 3}})
	}
	if err == nil {
		_, err = d.db().Collection("tyk_new_feature").InsertOne(ctx, bson.D{{Key: "_id", Value: "on"}})
	}
	if err != nil {
		return "", fmt.Errorf("change MongoDB as a new dashboard would: %w", err)
	}
	text := "an API, a policy and a collection"
	if d.redis == nil {
		return text, nil
	}
	_, err = d.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "apikey-000001", `{"schema": 5}`, 0)
		p.Del(ctx, "apikey-000002", "rate-limit-1")
		p.HSet(ctx, "dashboard-schema", "version", 5)
		return nil
	})
	return text + ", four Redis keys", err
}

// takeBackup takes one verified set of configuration and databases, and compares it with the
// running stack.
func (r *rehearsal) takeBackup(ctx context.Context, s *Step) error {
	d := &r.store
	d.dir = filepath.Join(r.dir, "backup")
	files := &hostfiles.Source{FS: os.DirFS(r.stack.root)}
	sources := []backup.Source{files, &mongodb.Source{Server: mongodb.Server{Client: d.mongo}}}
	against := []backup.Prover{files, &mongodb.Source{Server: mongodb.Server{Client: d.mongo}}}
	s.Stub = d.stubs()
	if d.redis != nil {
		source := &redisdb.Source{Client: d.redis}
		sources, against = append(sources, source), append(against, source)
	}
	packages := map[string]string{}
	for _, c := range components {
		packages[c.pkg] = r.stack.version(c, false)
	}
	set, err := backup.Take(ctx, d.dir, backup.Options{Label: "before " + r.o.to.String(),
		Packages: packages, Progress: r.backupEvent}, sources...)
	if err != nil {
		return err
	}
	d.set = set
	for _, c := range set.Components {
		line := fmt.Sprintf("%s: %d %s", c.Name, c.Items, map[string]string{"files": "files",
			"redis": "keys", "mongo": "documents"}[c.Kind])
		if c.Consistency != "" {
			line += ", consistent " + strings.ReplaceAll(string(c.Consistency), "_", " ")
		}
		s.say("%s", line)
	}
	if err := set.Verify(ctx, backup.VerifyOptions{Level: backup.LevelLive, Against: against,
		Progress: r.backupEvent}); err != nil {
		return err
	}
	s.say("verified: digests, structure, and equal to what runs")
	return r.recordBefore(ctx)
}

func (r *rehearsal) backupEvent(e backup.Event) {
	r.print.event("%s %s %s", e.Phase, e.Component, e.Item)
	if e.TotalBytes > 0 {
		r.print.progress(e.Component, e.Bytes, e.TotalBytes)
	}
}

// restoreData restores configuration and databases from the set, and removes the collections of the
// new version.
func (r *rehearsal) restoreData(ctx context.Context, s *Step) error {
	d := &r.store
	s.Stub = d.stubs()
	rescue := filepath.Join(r.dir, "rescue")
	to := []backup.Restorer{&hostfiles.Restore{Root: r.stack.root, Rescue: rescue},
		&mongodb.Restore{Server: mongodb.Server{Client: d.mongo}, Mode: mongodb.Replace, DropExtra: true}}
	if d.redis != nil {
		to = append(to, &redisdb.Live{Client: d.redis, Replace: true, StateDir: rescue})
	}
	rep, err := d.set.Restore(ctx, backup.RestoreOptions{Progress: r.backupEvent}, to...)
	if err != nil {
		return err
	}
	for _, c := range rep.Components {
		count := map[backup.Action]int{}
		var parts, dropped []string
		for _, i := range c.Items {
			if count[i.Action]++; i.Action == backup.ActionDrop {
				dropped = append(dropped, i.Name)
			}
		}
		for _, a := range []backup.Action{backup.ActionSame, backup.ActionReplace, backup.ActionCreate} {
			if count[a] > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", count[a], a))
			}
		}
		s.say("%s: %s; compared", c.Name, strings.Join(parts, ", "))
		if len(dropped) > 0 {
			s.say("dropped what the set does not have: %s", strings.Join(dropped, ", "))
		}
	}
	return nil
}

package redisdb_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	s := redislab.StartTLS(t, "--requirepass", "hunter2")
	s.Fill()
	set := takeRedis(t, s.Client())
	target := redislab.StartTLS(t)
	r := &redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Error(err)
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t, "--requirepass", "hunter2")
	s.Fill()
	c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mymaster",
		SentinelAddrs: []string{redislab.Sentinel(t, s)}, Password: "hunter2"})
	t.Cleanup(func() { _ = c.Close() })
	set := takeRedis(t, c)
	if comp := set.Components[0]; comp.Topology != "sentinel" || comp.Origin != "redis "+s.Addr {
		t.Errorf("%+v", comp)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: c,
		Replace: true, StateDir: t.TempDir()}); err != nil {
		t.Error(err)
	}
}

// Each form of a URI reaches the server, with a password of the characters that matter
// in URIs; Sentinels without a login are asked without one.
func TestURIsReachServers(t *testing.T) {
	t.Parallel()
	const password = "p@:/?#%w"
	encoded := url.QueryEscape(password)
	s := redislab.Start(t, "--requirepass", password)
	s.Do("SET", "{a}", "v")
	sentinel := redislab.Sentinel(t, s)
	cluster, _ := redislab.Cluster(t, 1)
	cluster[0].Do("SET", "{a}", "v")
	for _, uri := range []string{
		"redis://:" + encoded + "@" + s.Addr + "/0",
		"redis://default:" + encoded + "@" + s.Addr,
		"redis://:" + password + "@" + s.Addr,
		"redis://" + s.Addr + "?password=" + encoded,
		"redis+sentinel://:" + encoded + "@" + sentinel + "/mymaster/0",
		"redis+sentinel://" + sentinel + "/mymaster?password=" + encoded,
		"redis-sentinel://" + encoded + "@" + sentinel + "/0#mymaster",
		"redis://:" + encoded + "@" + sentinel + "/0?master_name=mymaster",
		"redis+cluster://" + cluster[0].Addr,
	} {
		c, err := redisdb.NewClient(uri, nil)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		if v, err := c.Get(t.Context(), "{a}").Result(); v != "v" {
			t.Errorf("%s: %q %v", uri, v, err)
		}
		_ = c.Close()
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	servers, c := redislab.Cluster(t, 3)
	if err := redislab.Fill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	set := takeRedis(t, c)
	var keys int64
	for _, s := range servers {
		keys += s.Do("DBSIZE").(int64)
	}
	d := redisDetails(t, set)
	if comp := set.Components[0]; len(d.Nodes) != 3 || comp.Items != keys ||
		comp.Topology != "cluster" || comp.Consistency != backup.ConsistencyPerNode ||
		d.Nodes[0].Slots != "0-5460" {
		t.Errorf("%+v %+v", comp, d)
	}
	// One node alone would be a third of the data.
	if err := refused(t, &redisdb.Source{Client: servers[0].Client()}); !strings.Contains(err.Error(),
		"one node of a cluster") {
		t.Error(err)
	}
	// A slot on its way from one node to another: its keys could be missed.
	servers[0].Do("CLUSTER", "SETSLOT", 7, "MIGRATING", servers[1].Do("CLUSTER", "MYID"))
	if err := refused(t, &redisdb.Source{Client: c}); !strings.Contains(err.Error(), "being moved") {
		t.Error(err)
	}
	servers[0].Do("CLUSTER", "SETSLOT", 7, "STABLE")
	servers[1].Do("CLUSTER", "SETSLOT", 7, "IMPORTING", servers[0].Do("CLUSTER", "MYID"))
	if err := refused(t, &redisdb.Source{Client: c}); !strings.Contains(err.Error(), "being moved") {
		t.Error(err)
	}
	servers[1].Do("CLUSTER", "SETSLOT", 7, "STABLE")
	takeRedis(t, c)
	// A slot that nobody serves.
	servers[2].Do("CLUSTER", "DELSLOTS", 16383)
	servers[0].Do("CLUSTER", "DELSLOTS", 16383)
	servers[1].Do("CLUSTER", "DELSLOTS", 16383)
	if err := refused(t, &redisdb.Source{Client: c}); !strings.Contains(err.Error(), "slot 16383") {
		t.Error(err)
	}
}

func TestReplica(t *testing.T) {
	t.Parallel()
	master := redislab.Start(t)
	master.Fill()
	s := redislab.Start(t, "--replicaof", "127.0.0.1 "+master.Port)
	link := func(state string) func() bool {
		return func() bool {
			return strings.Contains(fmt.Sprint(s.Do("INFO", "replication")), "master_link_status:"+state)
		}
	}
	redislab.WaitFor(t, "the replica", link("up"))
	set := takeRedis(t, s.Client())
	if n := redisDetails(t, set).Nodes[0]; n.Role != "slave" || n.RDB.Keys == 0 {
		t.Errorf("%+v", n)
	}
	// A replica is no target.
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: s.Client(),
		StateDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "it is a replica") {
		t.Errorf("%v", err)
	}
	master.Kill()
	redislab.WaitFor(t, "the link to break", link("down"))
	for _, m := range []redisdb.Method{redisdb.PSYNC, redisdb.BGSAVE} {
		err := refused(t, &redisdb.Source{Client: s.Client(), Method: m})
		var e *backup.Error
		if !errors.As(err, &e) || !e.Retryable() || !strings.Contains(err.Error(),
			"link to its master is down") {
			t.Errorf("%s: %v", m, err)
		}
	}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&redisdb.Source{Client: s.Client(), Method: redisdb.BGSAVE, AllowStale: true})
	if err != nil || !strings.Contains(strings.Join(set.Components[0].Warnings, ""),
		"the data is old") {
		t.Errorf("%+v %v", set, err)
	}
}

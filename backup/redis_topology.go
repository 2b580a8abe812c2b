package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// redisNodes is what a client leads to.
type redisNodes struct {
	kind  string
	nodes []*redisNode
	owner string // of a cluster: who has which slots
}

// redisNode is one server that holds data of its own.
type redisNode struct {
	client *redis.Client
	addr   string
	id     string
	slots  string
}

var unsafeInName = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func (n *redisNode) file() string {
	return strings.Trim(unsafeInName.ReplaceAllString(n.addr, "_"), "_.") + ".rdb"
}

func (t *redisNodes) origin() string {
	var addrs []string
	for _, n := range t.nodes {
		addrs = append(addrs, n.addr)
	}
	return "redis " + strings.Join(addrs, ",")
}

func redisTopology(ctx context.Context, c redis.UniversalClient) (*redisNodes, error) {
	switch c := c.(type) {
	case *redis.Client:
		return singleTopology(ctx, c)
	case *redis.ClusterClient:
		return clusterTopology(ctx, c)
	}
	return nil, fmt.Errorf("a client of type %T cannot be backed up; use redis.NewClient, NewFailoverClient or NewClusterClient", c)
}

func singleTopology(ctx context.Context, c *redis.Client) (*redisNodes, error) {
	t := &redisNodes{kind: "standalone"}
	n := &redisNode{client: c, addr: c.Options().Addr}
	// What NewFailoverClient (9.23) has in place of an address.
	if n.addr == "FailoverClient" {
		t.kind = "sentinel"
		conn, err := n.dial(ctx)
		if err != nil {
			return nil, redisError("find the master of", "redis (sentinel)", err)
		}
		n.addr = conn.addr()
		conn.close()
	}
	info, err := n.info(ctx)
	if err != nil {
		return nil, err
	}
	if info["cluster_enabled"] == "1" {
		return nil, &Error{Op: "read the topology of", Object: "redis " + n.addr, Err: errors.New("it is one node of a cluster"),
			Next: "connect with a cluster client, so that every master is included"}
	}
	t.nodes = []*redisNode{n}
	return t, nil
}

// clusterTopology finds the masters.
func clusterTopology(ctx context.Context, c *redis.ClusterClient) (*redisNodes, error) {
	//lint:ignore SA1019 CLUSTER SHARDS, which replaces it, needs Redis 7.0
	slots, err := c.ClusterSlots(ctx).Result()
	if err != nil {
		return nil, redisError("read the topology of", "redis cluster", err)
	}
	t := &redisNodes{kind: "cluster"}
	slices.SortFunc(slots, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
	byID := map[string]*redisNode{}
	next := 0
	for _, s := range slots {
		if s.Start != next || len(s.Nodes) == 0 {
			return nil, fmt.Errorf("read the topology of redis cluster: no node serves slot %d; repair the cluster first", next)
		}
		next = s.End + 1
		m := s.Nodes[0]
		n := byID[m.ID]
		if n == nil {
			n = &redisNode{addr: m.Addr, id: m.ID}
			byID[m.ID] = n
			t.nodes = append(t.nodes, n)
		} else {
			n.slots += ","
		}
		n.slots += fmt.Sprintf("%d-%d", s.Start, s.End)
		t.owner += fmt.Sprintf("%d-%d %s\n", s.Start, s.End, m.ID)
	}
	if next != redisSlots {
		return nil, fmt.Errorf("read the topology of redis cluster: no node serves slot %d; repair the cluster first", next)
	}
	// The client may know a node by another address than the cluster does.
	var mu sync.Mutex
	moving := false
	err = c.ForEachMaster(ctx, func(ctx context.Context, m *redis.Client) error {
		id, err := m.Do(ctx, "CLUSTER", "MYID").Text()
		if err != nil {
			return err
		}
		known, err := m.ClusterNodes(ctx).Result()
		mu.Lock()
		defer mu.Unlock()
		if n := byID[id]; n != nil {
			n.client = m
		}
		// How a node marks slots that it is giving away or taking over.
		moving = moving || strings.Contains(known, "->-") || strings.Contains(known, "-<-")
		return err
	})
	if err != nil {
		return nil, redisError("connect to the masters of", "redis cluster", err)
	}
	if moving {
		return nil, &Error{Op: "read the topology of", Object: "redis cluster", Err: errors.New("slots are being moved from one node to another"), Next: "wait until resharding is done, or repair it with redis-cli --cluster fix", Retry: true}
	}
	for _, n := range t.nodes {
		if n.client == nil {
			return nil, &Error{Op: "connect to", Object: "redis " + n.addr, Err: errors.New("the client knows no such master"), Next: "wait until the failover is done", Retry: true}
		}
	}
	return t, nil
}

const redisSlots = 16384

// unchanged makes sure that no slot moved while the nodes were read: its keys
// would be in two files or in none.
func (t *redisNodes) unchanged(ctx context.Context, c redis.UniversalClient) error {
	cluster, ok := c.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	now, err := clusterTopology(ctx, cluster)
	if err != nil {
		return err
	}
	if now.owner != t.owner {
		return &Error{Op: "back up", Object: "redis cluster", Err: fmt.Errorf("its slots moved: %w", ErrChanged), Next: "wait until resharding is done", Retry: true}
	}
	return nil
}

// redisInfo is INFO, line by line. It is empty where the user may not read it.
type redisInfo map[string]string

func (i redisInfo) int(name string) int64 {
	n, _ := strconv.ParseInt(i[name], 10, 64)
	return n
}

// databases returns the keys of each database.
func (i redisInfo) databases() map[int]int64 {
	dbs := map[int]int64{}
	for name, value := range i {
		num, ok := strings.CutPrefix(name, "db")
		db, err := strconv.Atoi(num)
		if !ok || err != nil {
			continue
		}
		for _, f := range strings.Split(value, ",") {
			if keys, ok := strings.CutPrefix(f, "keys="); ok {
				dbs[db], _ = strconv.ParseInt(keys, 10, 64)
			}
		}
	}
	return dbs
}

func (i redisInfo) keys() (n int64) {
	for _, keys := range i.databases() {
		n += keys
	}
	return n
}

// info reads INFO. A user that may not is no error: a snapshot needs none of
// it, and the server itself refuses PSYNC while it loads or has no master.
func (n *redisNode) info(ctx context.Context) (redisInfo, error) {
	info := redisInfo{}
	text, err := n.client.Info(ctx).Result()
	if redisDenied(err) {
		// Something must show that the server can be reached and likes us.
		err = n.client.Ping(ctx).Err()
	}
	if err != nil && !redisDenied(err) {
		return nil, redisError("read INFO of", "redis "+n.addr, err)
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// config reads one setting; ok is false where the server does not tell.
func (n *redisNode) config(ctx context.Context, name string) (value string, ok bool, err error) {
	all, err := n.client.ConfigGet(ctx, name).Result()
	if redisDenied(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, redisError("read CONFIG of", "redis "+n.addr, err)
	}
	value, ok = all[name]
	return value, ok, nil
}

// redisDenied is a command that the user may not run or that the server does
// not have: renamed, switched off by a managed service, or newer.
func redisDenied(err error) bool {
	if err == nil {
		return false
	}
	s := strings.ToLower(strings.TrimPrefix(err.Error(), "-"))
	return strings.HasPrefix(s, "noperm") || strings.HasPrefix(s, "err unknown command") || strings.HasPrefix(s, "err unknown subcommand")
}

// redisError says what to do about the errors that Redis users meet.
func redisError(op, object string, err error) error {
	e := &Error{Op: op, Object: object, Err: err, Retry: step.Retryable(err)}
	s := strings.TrimPrefix(err.Error(), "-")
	var netErr net.Error
	var file *fs.PathError // its cause would pass for a network error's
	switch {
	case strings.HasPrefix(s, "WRONGPASS"), strings.HasPrefix(s, "NOAUTH"):
		e.Next = "check user and password"
	case redisDenied(err):
		e.Err = fmt.Errorf("%w: %w", ErrNotAllowed, err)
		e.Next = "give the user that right, or choose another method"
	case strings.HasPrefix(s, "LOADING"), strings.HasPrefix(s, "NOMASTERLINK"), strings.HasPrefix(s, "MASTERDOWN"), strings.HasPrefix(s, "BUSY"):
		e.Retry = true
	case errors.Is(err, syscall.ENOSPC):
		e.Next, e.Retry = "free some space", true
	case errors.Is(err, context.Canceled), errors.As(err, &file):
	case errors.Is(err, ErrChanged):
		e.Retry = true
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Next, e.Retry = "check that the server runs and can be reached", true
	}
	return e
}

// redisPoll is how often a server is asked for a state that it does not
// announce.
const redisPoll = 50 * time.Millisecond

// poll asks until done is true.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(redisPoll)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return step.Ended(ctx)
		case <-tick.C:
		}
	}
}

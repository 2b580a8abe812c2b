package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// RedisOffline is a [Restorer] that puts RDB files where servers of this
// machine load them at their next start, and starts them. It works for servers
// of any configuration, and is the fastest for large data.
//
// While Restore runs each server is stopped, what it had is moved aside and
// kept under a name that the report tells, the file gets the owner of the data
// directory, and the server is started and waited for. A server with
// appendonly yes ignores dump.rdb (7.0: it starts empty, without an error), so
// there the file becomes the base of a new append-only file. Where anything
// fails, or the proof does, the servers get back what they had.
//
// Under Sentinel, or where a cluster has replicas, stopping a master starts a
// failover: pause it, or use [RedisLive].
type RedisOffline struct {
	Component string // name in the set; empty: "redis"
	Servers   []RedisServer
	Replace   bool // also where a server holds keys
	Sample    int  // Prove: compare so many keys, chosen at random, instead of all

	touched []*placement
}

// RedisServer is one server of this machine. Stop and Start act on its unit;
// Stop returns when the process has gone.
type RedisServer struct {
	Client      *redis.Client
	File        string // in the component's directory; may be empty where there is only one
	Stop, Start func(ctx context.Context) error

	// Config answers for CONFIG GET where the server does not: dir, dbfilename,
	// appendonly, appenddirname, appendfilename.
	Config map[string]string
}

// Name returns the component's name.
func (r *RedisOffline) Name() string {
	if r.Component == "" {
		return "redis"
	}
	return r.Component
}

// placement is everything known about one server before it is touched.
type placement struct {
	server RedisServer
	node   *redisNode
	from   RedisNode
	dir    string
	rdb    string // absolute path of dump.rdb
	aof    string // absolute path of the append-only directory (7.0) or file (before); empty: off
	base   string // names within aof
	multi  bool   // 7.0: aof is a directory with a manifest
	owner  atomicfile.Owner
	mode   fs.FileMode
	keys   int64

	kept []string                      // names that what was there was given
	undo []func(context.Context) error // the way back, in the order of the way there
}

// Plan looks at every server and lists what would be placed where.
func (r *RedisOffline) Plan(ctx context.Context, s *Stored) ([]Item, error) {
	places, err := r.places(ctx, s)
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, p := range places {
		items = append(items, p.item())
	}
	return items, nil
}

func (p *placement) item() Item {
	i := Item{Name: p.node.addr, Action: ActionCreate, Count: p.from.RDB.Keys, Bytes: p.from.RDB.Size, Detail: "stop, place " + p.rdb + ", start"}
	if p.aof != "" {
		i.Detail = "stop, place " + p.rdb + " and " + p.aof + ", start"
	}
	if p.keys > 0 {
		i.Action = ActionReplace
	}
	return i
}

func (r *RedisOffline) places(ctx context.Context, s *Stored) ([]*placement, error) {
	var d RedisDetails
	if err := s.DecodeDetails(&d); err != nil {
		return nil, err
	}
	if len(r.Servers) != len(d.Nodes) {
		return nil, fmt.Errorf("%d servers given for a set of %d nodes; name one for each file", len(r.Servers), len(d.Nodes))
	}
	used := map[string]bool{}
	var places []*placement
	for _, server := range r.Servers {
		if server.Client == nil || server.Stop == nil || server.Start == nil {
			return nil, errors.New("a server needs Client, Stop and Start")
		}
		p := &placement{server: server, node: &redisNode{client: server.Client, addr: server.Client.Options().Addr}}
		for _, n := range d.Nodes {
			if n.File == server.File || (server.File == "" && len(d.Nodes) == 1) {
				p.from = n
			}
		}
		if p.from.File == "" || used[p.from.File] {
			return nil, fmt.Errorf("redis %s: file %q is not in the set or is used twice", p.node.addr, server.File)
		}
		used[p.from.File] = true
		if err := p.look(ctx, r.Replace); err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	return places, nil
}

// look asks the running server and its directory, and refuses what would fail
// later.
func (p *placement) look(ctx context.Context, replace bool) error {
	object := "redis " + p.node.addr
	info, err := p.node.info(ctx)
	if err != nil {
		return err
	}
	if err := checkTarget(ctx, p.node, info, p.from.RDB.Version, replace); err != nil {
		return err
	}
	p.keys = info.keys()
	get := func(name string) (string, error) {
		if v, ok := p.server.Config[name]; ok {
			return v, nil
		}
		v, ok, err := p.node.config(ctx, name)
		if err == nil && !ok {
			err = &Error{Op: "read CONFIG of", Object: object, Err: fmt.Errorf("%w: CONFIG GET %s is forbidden or renamed", ErrNotAllowed, name),
				Next: "give the answer yourself, or restore live instead of offline"}
		}
		return v, err
	}
	cfg := map[string]string{}
	p.multi = info["redis_version"] == "" || info.major() >= 7
	for _, name := range []string{"dir", "dbfilename", "appendonly", "appendfilename", "appenddirname"} {
		if name == "appenddirname" && !p.multi {
			continue
		}
		if cfg[name], err = get(name); err != nil {
			return err
		}
	}
	p.dir = cfg["dir"]
	p.rdb = filepath.Join(p.dir, cfg["dbfilename"])
	if cfg["appendonly"] == "yes" {
		p.base = cfg["appendfilename"]
		p.aof = filepath.Join(p.dir, p.base)
		if p.multi {
			p.aof = filepath.Join(p.dir, cfg["appenddirname"])
		}
	}
	return p.lookAtDir(object)
}

// lookAtDir takes owner and mode from what is there.
func (p *placement) lookAtDir(object string) error {
	stat, err := os.Stat(p.dir)
	if err != nil {
		return &Error{Op: "look at the data directory of", Object: object, Err: err, Next: "run this on the server's own machine, or restore live instead of offline"}
	}
	p.mode = 0o660
	if f, err := os.Lstat(p.rdb); err == nil {
		if !f.Mode().IsRegular() {
			return fmt.Errorf("%s %w", p.rdb, atomicfile.ErrNotRegular)
		}
		p.mode = f.Mode().Perm()
	}
	st, ok := stat.Sys().(*syscall.Stat_t)
	if !ok || !stat.IsDir() {
		return &Error{Op: "look at the data directory of", Object: object, Err: fmt.Errorf("%s is not a directory", p.dir)}
	}
	p.owner = atomicfile.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	return step.CheckSpace(p.dir, p.from.RDB.Size)
}

// checkTarget refuses a server that must not or cannot take the data.
func checkTarget(ctx context.Context, n *redisNode, info redisInfo, version int, replace bool) error {
	object := "redis " + n.addr
	switch {
	case info["loading"] == "1" || info["async_loading"] == "1":
		return &Error{Op: "restore", Object: object, Err: errors.New("the server is loading its data"), Next: "wait until INFO says loading:0", Retry: true}
	case info["role"] == "slave":
		return &Error{Op: "restore", Object: object, Err: errors.New("it is a replica"), Next: "restore its master, " + info["master_host"] + ":" + info["master_port"]}
	}
	newest, err := n.rdbVersion(ctx, info)
	if err != nil {
		return err
	}
	if version > newest {
		return &Error{Op: "restore", Object: object, Err: fmt.Errorf("the data is in RDB version %d, the server (%s) loads up to %d: %w", version, info["redis_version"], newest, ErrTooNew),
			Next: "restore into a server at least as new as the one that was backed up"}
	}
	if replace {
		return nil
	}
	keys := info.keys()
	if len(info) == 0 {
		if keys, err = n.client.DBSize(ctx).Result(); err != nil {
			return redisError("count the keys of", object, err)
		}
	}
	if keys > 0 {
		return &Error{Op: "restore", Object: object, Err: fmt.Errorf("%w: it holds %d keys", ErrNotEmpty, keys), Next: "restore with replacing if they may go"}
	}
	return nil
}

func (i redisInfo) major() int {
	var major int
	_, _ = fmt.Sscanf(i["redis_version"], "%d", &major)
	return major
}

// Restore stops, places and starts one server after the other.
func (r *RedisOffline) Restore(ctx context.Context, s *Stored, progress func(Event)) (items []Item, err error) {
	places, err := r.places(ctx, s)
	if err != nil {
		return nil, err
	}
	suffix := ".before-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
	r.touched = nil
	defer func() {
		if err != nil {
			err = errors.Join(err, r.rollback(ctx))
		}
	}()
	e := Event{Component: r.Name(), Phase: PhaseRestore, TotalBytes: s.Bytes, TotalItems: s.Items}
	for _, p := range places {
		e.Item = p.node.addr
		r.touched = append(r.touched, p)
		if err := p.place(ctx, s, suffix, func(n int64) { e.Bytes += n; progress(e) }); err != nil {
			return items, err
		}
		i := p.item()
		if i.Detail = "placed " + p.rdb; len(p.kept) > 0 {
			i.Detail += fmt.Sprintf("; what was there is now %v", p.kept)
		}
		items = append(items, i)
		e.Items += p.from.RDB.Keys
		progress(e)
	}
	e.Done = true
	progress(e)
	return items, nil
}

// place does everything for one server. The file is copied while the server
// still runs: a full disk is found before anything stops.
func (p *placement) place(ctx context.Context, s *Stored, suffix string, count func(int64)) error {
	object := "redis " + p.node.addr
	staged := filepath.Join(p.dir, "temp-restore"+suffix+".rdb")
	_, err := atomicfile.Write(ctx, staged, atomicfile.Options{Mode: p.mode, Owner: &p.owner, NoDigest: true}, func(w io.Writer) error {
		src, err := s.Open(p.from.File)
		if err != nil {
			return err
		}
		defer src.Close()
		_, err = io.Copy(w, &step.ReadMeter{Ctx: ctx, R: src, Add: count})
		return err
	})
	if err != nil {
		return step.Fail("restore", object, err)
	}
	defer os.Remove(staged)
	// From here on the server is down, so the end of ctx must not leave it so.
	p.undo = append(p.undo, p.up)
	if err := p.down(ctx); err != nil {
		return err
	}
	// A server with save points wrote its file just now, so only now is it
	// moved aside.
	for _, path := range []string{p.rdb, p.aof} {
		if path == "" {
			continue
		}
		aside := path + suffix
		err := os.Rename(path, aside)
		if err == nil {
			p.kept = append(p.kept, aside)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return step.Fail("move aside "+path+" of", object, err)
		}
		existed := err == nil
		p.undo = append(p.undo, func(context.Context) error {
			err := os.RemoveAll(path)
			if existed && err == nil {
				err = os.Rename(aside, path)
			}
			return err
		})
	}
	p.undo = append(p.undo, p.down)
	if err := p.link(ctx, staged); err != nil {
		return step.Fail("place "+p.rdb+" of", object, err)
	}
	return p.up(ctx)
}

// link gives the staged file its names. With an append-only file both names
// are there: which one the server reads depends on the configuration file that
// it starts with, and CONFIG GET tells only that of the moment.
func (p *placement) link(ctx context.Context, staged string) error {
	if err := os.Link(staged, p.rdb); err != nil {
		return err
	}
	if p.aof == "" {
		return atomicfile.SyncDir(p.dir)
	}
	if !p.multi {
		// Redis 4 to 6 read an RDB file as the beginning of the append-only file.
		return errors.Join(os.Link(staged, p.aof), atomicfile.SyncDir(p.dir))
	}
	if err := os.Mkdir(p.aof, 0o750); err != nil {
		return err
	}
	if err := os.Chown(p.aof, p.owner.UID, p.owner.GID); err != nil {
		return err
	}
	base := p.base + ".1.base.rdb"
	if err := os.Link(staged, filepath.Join(p.aof, base)); err != nil {
		return err
	}
	manifest := fmt.Appendf(nil, "file \"%s\" seq 1 type b\n", strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(base))
	_, err := atomicfile.WriteBytes(ctx, filepath.Join(p.aof, p.base+".manifest"), atomicfile.Options{Mode: p.mode, Owner: &p.owner}, manifest)
	return errors.Join(err, atomicfile.SyncDir(p.dir))
}

// down stops the server and makes sure that it is gone.
func (p *placement) down(ctx context.Context) error {
	object := "redis " + p.node.addr
	if err := p.server.Stop(ctx); err != nil {
		return step.Fail("stop", object, err)
	}
	stopped := time.Now()
	err := poll(ctx, func() (bool, error) {
		conn, err := p.node.dial(ctx)
		if err == nil {
			conn.close()
		}
		// Anything else may be a server that is alive, or ctx that has ended.
		if notListening(err) || time.Since(stopped) < patience {
			return notListening(err), step.Ended(ctx)
		}
		return false, cmpErr(err, fmt.Errorf("something answers there %v after the stop", patience))
	})
	if err != nil {
		return &Error{Op: "stop", Object: object, Err: fmt.Errorf("its port is not closed: %w", err), Next: "stop it with its own unit, so that nothing restarts it"}
	}
	return nil
}

// up starts the server and waits until it has loaded its data.
func (p *placement) up(ctx context.Context) error {
	object := "redis " + p.node.addr
	if err := p.server.Start(ctx); err != nil {
		return step.Fail("start", object, err)
	}
	var last error
	// A server that cannot load its file exits, and nothing else tells.
	started := time.Now()
	err := poll(ctx, func() (bool, error) {
		var info redisInfo
		var conn *redisConn
		// The client library logs every attempt that fails; this does not.
		if conn, last = p.node.dial(ctx); last == nil {
			conn.close()
			info, last = p.node.info(ctx)
		}
		if last != nil {
			if time.Since(started) > patience {
				return false, last
			}
			return false, nil
		}
		return info["loading"] != "1", nil
	})
	if err != nil {
		return &Error{Op: "start", Object: object, Err: errors.Join(err, last), Next: "look at its log"}
	}
	return nil
}

// patience is how long a server may be silent after its start (while it loads it
// does answer), still be there after its stop, or be gone while it loads.
var patience = 30 * time.Second

// notListening says that there is no server: nothing has the port or the socket.
func notListening(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// Prove compares the servers with the set. Where they differ the servers get
// back what they had.
func (r *RedisOffline) Prove(ctx context.Context, s *Stored) error {
	var nodes []*redisNode
	var client redis.UniversalClient
	for _, server := range r.Servers {
		if server.Client == nil {
			return errors.New("a server needs a Client")
		}
		client = server.Client
		nodes = append(nodes, &redisNode{client: server.Client, addr: server.Client.Options().Addr})
	}
	sample := r.Sample
	if len(nodes) > 1 {
		sample = 0 // each key would have to be asked of its own node
	}
	err := proveRedis(ctx, nodes, client, s, sample)
	if errors.Is(err, ErrDiffers) {
		err = errors.Join(err, r.rollback(ctx))
	}
	r.touched = nil
	return err
}

// rollback undoes what Restore did, last step first, even after ctx has ended.
// A server whose step fails is left as it is: one that cannot be stopped would
// write over what is put back.
func (r *RedisOffline) rollback(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), step.UndoLimit)
	defer cancel()
	var errs []error
	for _, p := range slices.Backward(r.touched) {
		for _, undo := range slices.Backward(p.undo) {
			if err := undo(ctx); err != nil {
				if len(p.kept) > 0 {
					err = fmt.Errorf("look for it in %v: %w", p.kept, err)
				}
				errs = append(errs, fmt.Errorf("and bringing back what was there failed: %w", err))
				break
			}
		}
	}
	r.touched = nil
	return errors.Join(errs...)
}

var _ Restorer = (*RedisOffline)(nil)

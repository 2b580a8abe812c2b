package redisdb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Offline is a [backup.Restorer] that replaces the data files of stopped servers on this machine
// and starts the servers. It works with any configuration of a server and is fastest for large
// data.
//
// Restore handles one server after the other. It saves unsaved data with BGSAVE, stops the server
// and renames its files within their directory. Then it places the new file, starts the server and
// waits for it. A server with appendonly yes ignores dump.rdb: 7.0 starts empty, without an error.
// The file then becomes the base of a new append-only file, also if appendonly is off but an old
// append-only file exists. After a failure, Restore restores the files of each server. Undo does
// that later, and Accept removes the renamed files.
//
// Files are written with the permissions of the directory's owner. Offline uses the directory that
// a server reports only if it belongs to the user of the server's process. For a server that runs
// as root, in a container or behind a proxy, set [Server].Dir.
//
// StateDir has a journal. After kill -9, Restore with the same set and StateDir first restores the
// previous files, then begins again. Undo only restores the previous files.
//
// With Sentinel, or with replicas in a cluster, stopping a master starts a failover. Disable
// failovers, or use [Live].
type Offline struct {
	Servers   []Server
	StateDir  string // directory for the journal
	Component string // name in the set; empty: "redis"
	Replace   bool   // replace the data of servers that have keys
	Sample    int    // Prove compares this many random keys; 0: all

	// Uncompared accepts a set of a newer server, whose keys this package cannot read. Prove
	// then only checks that the servers have loaded their files.
	Uncompared bool
}

// Server is one server on this machine. Stop and Start act on its unit. Stop returns once the
// process has ended. Start may return before the server answers. Both must succeed if there is
// nothing to do.
type Server struct {
	Client      *redis.Client
	File        string // name in the component's directory; may be empty if there is only one file
	Dir         string // data directory; empty: the one of CONFIG GET, if it can be trusted
	Stop, Start func(ctx context.Context) error

	// Config replaces CONFIG GET if the server forbids it. Its keys are dbfilename, appendonly,
	// appenddirname, appendfilename and save. dir is the same as Dir.
	Config map[string]string

	Commands map[string]string // as in [Source]
}

// Name returns the component's name.
func (r *Offline) Name() string { return named(r.Component) }

func (s *Server) node() *node {
	return &node{client: s.Client, addr: s.Client.Options().Addr, names: s.Commands}
}

func (r *Offline) check() error {
	if len(r.Servers) == 0 {
		return errors.New("no servers are set")
	}
	for _, s := range r.Servers {
		if s.Client == nil || s.Stop == nil || s.Start == nil {
			return errors.New("a server needs Client, Stop and Start")
		}
	}
	return nil
}

func (r *Offline) target() string {
	var addrs []string
	for _, s := range r.Servers {
		addrs = append(addrs, s.Client.Options().Addr)
	}
	return "redis " + strings.Join(addrs, ",")
}

// Plan checks every server and returns the files that would be placed. It changes nothing.
func (r *Offline) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	state, err := openState(r.StateDir, r.Name(), false)
	if err != nil {
		return nil, err
	}
	j, err := r.unfinished(ctx, s, state)
	if err != nil {
		return nil, err
	}
	var items []backup.Item
	switch {
	case j != nil && j.Phase == phaseRestored:
		return sameItems(j), nil
	case j != nil && j.Phase != phaseSaving: // the servers may be down
		for _, p := range j.Servers {
			items = append(items, backup.Item{Name: p.Addr, Action: backup.ActionReplace,
				Detail: "undo the restore of " + j.Started.Format(time.RFC3339) +
					", which was interrupted, then restore again"})
		}
		return items, nil
	}
	places, err := r.places(ctx, s)
	for _, p := range places {
		items = append(items, p.item())
	}
	return items, err
}

func sameItems(j *journal) (items []backup.Item) {
	for _, p := range j.Servers {
		items = append(items, backup.Item{Name: p.Addr, Action: backup.ActionSame,
			Detail: "restored at " + j.Started.Format(time.RFC3339) + ", and compared just now"})
	}
	return items
}

// unfinished finds the journal of an earlier run.
func (r *Offline) unfinished(ctx context.Context, s *backup.Stored,
	state *stateDir) (*journal, error) {
	j, err := state.load()
	if err != nil || j == nil {
		return nil, err
	}
	if j.Phase == phaseAccepted {
		if state.lock == nil { // Plan changes nothing
			return nil, nil
		}
		return nil, finishAccept(state, j)
	}
	if err := j.fits("offline", r.target(), nil, s); err != nil {
		return nil, err
	}
	if j.Phase == phaseRestored {
		err := r.Prove(ctx, s)
		if errors.Is(err, backup.ErrDiffers) {
			err = j.unfinished("since then somebody has written to the server",
				"call Accept to keep its present data, or Undo to restore its data from before the restore")
		}
		if err != nil {
			return nil, err
		}
	}
	return j, nil
}

func (p *place) item() backup.Item {
	i := backup.Item{Name: p.Addr, Action: backup.ActionCreate, Count: p.from.RDB.Keys,
		Bytes: p.from.RDB.Size}
	i.Detail = "stop, place " + strings.Join(p.names(), " and ") + " in " + p.Dir + ", start"
	if p.plaintext != "" {
		i.Detail += "; " + p.plaintext
	}
	if p.holds {
		i.Action = backup.ActionReplace
	}
	return i
}

// Restore stops each server, places its file and starts it, one after the other. After a failure it
// restores the files of every server, even if ctx has ended.
func (r *Offline) Restore(ctx context.Context, s *backup.Stored,
	progress func(backup.Event)) ([]backup.Item, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return nil, err
	}
	defer state.close()
	j, err := r.unfinished(ctx, s, state)
	if err != nil {
		return nil, err
	}
	if j != nil && j.Phase == phaseRestored {
		return sameItems(j), nil
	}
	if j != nil {
		if err := r.back(ctx, state, j); err != nil {
			return nil, err
		}
	}
	places, err := r.places(ctx, s)
	if err != nil {
		return nil, err
	}
	j = newJournal("offline", r.Name(), r.target(), s)
	for _, p := range places {
		j.Servers = append(j.Servers, &p.placed)
	}
	items, err := r.place(ctx, s, state, j, places, progress)
	if err != nil {
		ctx, cancel := step.Undoing(ctx)
		defer cancel()
		return items, errors.Join(ctxFirst(ctx, err), r.back(ctx, state, j))
	}
	return items, nil
}

func (r *Offline) place(ctx context.Context, s *backup.Stored, state *stateDir, j *journal,
	places []*place, progress func(backup.Event)) (items []backup.Item, err error) {
	if err := state.save(ctx, j); err != nil {
		return nil, err
	}
	e := backup.Event{Component: r.Name(), Phase: backup.PhaseRestore, TotalBytes: s.Bytes,
		TotalItems: s.Items}
	for _, p := range places {
		e.Item = p.Addr
		err := p.stage(ctx, s, p.from.RDB.Size-p.from.RDB.Trailing,
			func(n int64) { e.Bytes += n; progress(e) })
		if err != nil {
			return nil, step.Fail("restore", "redis "+p.Addr, err)
		}
	}
	if err := state.next(ctx, j, phasePlacing); err != nil {
		return nil, err
	}
	for i, p := range places {
		if err := r.placeOne(ctx, state, j, &r.Servers[i], p); err != nil {
			return items, err
		}
		item := p.item()
		item.Detail = "placed " + strings.Join(p.names(), " and ") + " in " + p.Dir
		for _, name := range p.Existed {
			item.Detail += "; the previous one is " + filepath.Join(p.Dir, p.aside(name)) + " until Accept"
		}
		items = append(items, item)
		e.Item, e.Items = p.Addr, e.Items+p.from.RDB.Keys
		progress(e)
	}
	for _, p := range places {
		if err := p.clean(false); err != nil {
			return items, step.Fail("clean up after", "redis "+p.Addr, err)
		}
	}
	if err := state.next(ctx, j, phaseRestored); err != nil {
		return items, err
	}
	e.Done = true
	progress(e)
	return items, nil
}

// placeOne does everything for one server. If ctx ends while the server is down, Restore fails and
// restores its files.
func (r *Offline) placeOne(ctx context.Context, state *stateDir, j *journal, server *Server,
	p *place) error {
	n := server.node()
	if p.holds && p.unsaved { // otherwise there would be nothing to restore
		if err := n.saveInBackground(ctx); err != nil {
			return fmt.Errorf("save the server's data before the stop: %w", err)
		}
	}
	p.Step = stepStopping
	if err := state.save(ctx, j); err != nil {
		return err
	}
	if err := n.down(ctx, server.Stop); err != nil {
		return err
	}
	var err error
	if p.Existed, err = p.existing(); err == nil {
		p.Step = stepMoving
		err = state.save(ctx, j)
	}
	if err == nil {
		err = p.put()
	}
	if err != nil {
		return step.Fail("place "+p.RDB+" of", n.object(), err)
	}
	if err := n.up(ctx, server.Start); err != nil {
		return err
	}
	p.Step = stepStarted
	return state.save(ctx, j)
}

// Prove compares the servers with the set. It changes nothing.
func (r *Offline) Prove(ctx context.Context, s *backup.Stored) error {
	if err := r.check(); err != nil {
		return err
	}
	d, err := detailsOf(s)
	if err != nil {
		return err
	}
	var nodes []*node
	for i := range r.Servers {
		nodes = append(nodes, r.Servers[i].node())
	}
	if r.Uncompared && slices.ContainsFunc(d.Nodes,
		func(n Node) bool { return n.RDB.NotWalked != "" }) {
		for _, n := range nodes {
			info, err := n.info(ctx)
			if err == nil && (info["loading"] == "1" || info.keys() == 0) {
				err = fmt.Errorf("%w: %s has loaded no keys", backup.ErrDiffers, n.object())
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	sample := r.Sample
	if len(nodes) > 1 {
		sample = 0 // each key would have to be asked of its own node
	}
	return compare(ctx, nodes, r.Servers[0].Client, s, sample)
}

var (
	_ backup.Restorer = (*Offline)(nil)
	_ backup.Undoer   = (*Offline)(nil)
	_ backup.Accepter = (*Offline)(nil)
)

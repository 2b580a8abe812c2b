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

// Offline is a [backup.Restorer] that puts files where servers of this machine
// load them at their next start, and starts them. It works for servers of any
// configuration, and is the fastest for large data.
//
// While Restore runs each server is stopped, what it had is moved aside within
// its directory, and the server is started and waited for. A server with
// appendonly yes ignores dump.rdb (7.0: it starts empty, without an error), so
// there the file becomes the base of a new append-only file, also where appendonly is off at
// the moment and an old append-only file lies there. A server that would
// not save what it holds when it is stopped is told to save first (BGSAVE). A
// failure puts back what each server had. Undo does that later, and Accept removes what was
// moved aside.
//
// Files are written with the permissions of the directory's owner. The
// directory that a server names is believed only if it belongs to the user whose
// process answers; for a server of root, in a container or behind a proxy name
// it with [Server].Dir.
//
// StateDir holds a journal. After kill -9 an Offline with the same StateDir
// finds it: Restore with the same set first puts back what there was, then
// begins again; Undo only puts back.
//
// Under Sentinel, or where a cluster has replicas, stopping a master starts a
// failover: pause it, or use [Live].
type Offline struct {
	Servers   []Server
	StateDir  string // the operator's directory for the journal
	Component string // name in the set; empty: "redis"
	Replace   bool   // also where a server holds keys
	Sample    int    // Prove: compare so many keys, chosen at random, instead of all

	// Uncompared accepts a set whose keys this package cannot read, as a newer
	// server wrote it. Prove then only looks whether the servers have loaded
	// their files.
	Uncompared bool
}

// Server is one server of this machine. Stop and Start act on its unit. Stop
// returns when the process has gone, Start may return before it answers; both
// may be called when there is nothing to do.
type Server struct {
	Client      *redis.Client
	File        string // in the component's directory; may be empty if there is only one
	Dir         string // data directory; empty: what CONFIG GET says, if that can be believed
	Stop, Start func(ctx context.Context) error

	// Config answers for CONFIG GET if the server does not: dbfilename,
	// appendonly, appenddirname, appendfilename, save; dir is the same as Dir.
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
		return errors.New("no servers given")
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

// Plan looks at every server and lists what would be placed where. It changes
// nothing.
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
				Detail: "put back what it had before the restore of " + j.Started.Format(time.RFC3339) +
					" was interrupted, then restore again"})
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
				"call Accept to keep what it holds, or Undo to put back what it had before the restore")
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

// Restore stops, places and starts one server after the other. A failure puts
// back what every server had, also after ctx has ended.
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

// placeOne does everything for one server. While it is down the end of ctx must
// not leave it so: then Restore fails, and puts back.
func (r *Offline) placeOne(ctx context.Context, state *stateDir, j *journal, server *Server,
	p *place) error {
	n := server.node()
	if p.holds && p.unsaved { // otherwise there would be nothing to put back
		if err := n.saveInBackground(ctx); err != nil {
			return fmt.Errorf("save what the server holds before it is stopped: %w", err)
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

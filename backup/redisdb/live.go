package redisdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// Live is a [backup.Restorer] that writes the set key by key with RESTORE into
// servers that run: one server, the master that Sentinel names, or a cluster of
// any number of masters. Nothing is stopped. It needs Redis 5.0 or newer.
//
// A target that holds keys or functions is refused unless Replace is set. Then
// Restore takes a set of what it holds into StateDir, reads that back, and only
// then empties the target. Where the target was empty a failure leaves it empty.
//
// Plan refuses, with nothing changed, what would fail later: a newer data
// format, more databases than the target has, modules that it lacks, too little
// maxmemory, commands that the user may not run, a target whose data could not be
// brought back. Permissions are tried with some keys of the set, not with all.
//
// StateDir holds a journal. After kill -9 a Live with the same StateDir finds
// it: Plan and Restore with the same set go forward, Undo goes back. Otherwise
// they return [ErrUnfinished] and say what state the servers are in. Writes of
// clients between Restore and Undo are lost with Undo if Replace was set.
//
// Accept forgets the journal. The set of what was replaced stays in StateDir; it
// is a set as any other, and [backup.Prune] removes it.
type Live struct {
	Client    redis.UniversalClient
	StateDir  string // the operator's directory for the journal, and for the set of what is replaced
	Component string // name in the set; empty: "redis"
	Replace   bool   // the set replaces everything that the target holds
	Sample    int    // Prove: compare so many keys, chosen at random, instead of all

	// Rescue is how the target is read before it is emptied: PSYNC or DUMP.
	// Empty: as the set was read. Plan refuses if the user may not.
	Rescue Method

	Commands map[string]string // as in [Source]
}

// Name returns the component's name.
func (r *Live) Name() string { return named(r.Component) }

// target is what Plan found out.
type target struct {
	topo      *topology
	details   Details
	holds     bool // keys or functions are there
	functions bool // there or in the set
	rescue    Method
	resume    *journal // of an earlier run of the same restore
}

// Plan refuses what cannot be loaded and lists each file. It changes nothing.
func (r *Live) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	state, err := openState(r.StateDir, r.Name(), false)
	if err != nil {
		return nil, err
	}
	t, err := r.look(ctx, s, state)
	if err != nil {
		return nil, err
	}
	return t.items(r.StateDir), nil
}

func (t *target) items(dir string) []backup.Item {
	var items []backup.Item
	for _, n := range t.details.Nodes {
		i := backup.Item{Name: n.File, Action: backup.ActionCreate, Count: n.RDB.Keys, Bytes: n.RDB.Size, Detail: "key by key into " + t.topo.origin()}
		if t.holds || t.resume != nil && t.resume.Rescue != "" {
			i.Action = backup.ActionReplace
		}
		switch {
		case t.resume != nil && t.resume.Phase == phaseRestored:
			i.Action, i.Detail = backup.ActionSame, "restored at "+t.resume.Started.Format(time.RFC3339)+", and compared just now"
		case t.resume != nil:
			i.Detail += "; goes on with the restore of " + t.resume.Started.Format(time.RFC3339) + ": " + t.resume.state()
		case t.holds:
			i.Detail += "; what it holds goes into a set in " + dir + " first"
		}
		if n.RDB.Empty > 0 {
			i.Detail += fmt.Sprintf("; %d collections without elements are left out", n.RDB.Empty)
		}
		items = append(items, i)
	}
	return items
}

// look asks everything.
func (r *Live) look(ctx context.Context, s *backup.Stored, state *stateDir) (*target, error) {
	if r.Client == nil {
		return nil, errors.New("no client given")
	}
	t := &target{rescue: r.Rescue}
	var err error
	if t.details, err = detailsOf(s); err != nil {
		return nil, err
	}
	version := 0
	for _, n := range t.details.Nodes {
		version = max(version, n.RDB.Version)
		t.functions = t.functions || n.RDB.Functions > 0
		if n.RDB.NotWalked != "" {
			return nil, fmt.Errorf("%s cannot be restored key by key: %s; use Offline, which places the file as it is", n.File, n.RDB.NotWalked)
		}
		if len(n.RDB.ModuleAux) > 0 {
			return nil, fmt.Errorf("%s holds data that modules keep outside of keys (%v), which cannot be restored key by key; use Offline, which places the file as it is",
				n.File, moduleTypes(n.RDB))
		}
	}
	if t.topo, err = topologyOf(ctx, r.Client, r.Commands); err != nil {
		return nil, err
	}
	if t.resume, err = r.unfinished(ctx, s, state, t); err != nil {
		return nil, err
	}
	if t.resume != nil && t.resume.Phase == phaseRestored {
		return t, nil
	}
	keys, err := sampleKeys(ctx, s, t.details)
	if err != nil {
		return nil, err
	}
	var infos []serverInfo
	for _, n := range t.topo.nodes {
		info, err := r.lookAt(ctx, n, t, version)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	if err := checkMemory(t.topo.nodes, infos, t.details); err != nil {
		return nil, err
	}
	for _, n := range t.topo.nodes {
		if err := n.mayRun(ctx, t.needed(keys)...); err != nil {
			return nil, err
		}
	}
	if t.holds {
		err = r.mayRescue(ctx, s, state, t, infos)
	}
	return t, err
}

// unfinished finds the journal of an earlier run.
func (r *Live) unfinished(ctx context.Context, s *backup.Stored, state *stateDir, t *target) (*journal, error) {
	j, err := state.load()
	if err != nil || j == nil {
		return nil, err
	}
	if err := j.fits("live", t.topo.origin(), s); err != nil {
		return nil, err
	}
	switch j.Phase {
	case phaseSaving:
		return nil, nil
	case phaseUndoing:
		return nil, j.unfinished("putting back what was there was interrupted", "call Undo again")
	case phaseRestored:
		err := compare(ctx, t.topo.nodes, r.Client, s, r.Sample)
		if errors.Is(err, backup.ErrDiffers) {
			return nil, j.unfinished("since then somebody has written to the server", "call Accept to keep what it holds, or Undo to put back what it held before the restore")
		}
		return j, err
	}
	return j, nil
}

// lookAt asks one node.
func (r *Live) lookAt(ctx context.Context, n *node, t *target, version int) (serverInfo, error) {
	info, err := n.info(ctx)
	if err == nil {
		err = checkState(ctx, n, info, version)
	}
	if err == nil {
		err = checkDatabases(ctx, n, t.details)
	}
	if err == nil {
		err = checkModules(ctx, n, info, t.details)
	}
	if err != nil {
		return nil, err
	}
	if product, major, _ := info.version(); len(info) > 0 && product == "redis" && major < 5 {
		return nil, refuse(n, nil, "use Offline", "version %s cannot restore expiries as points in time; that came with 5.0", info["redis_version"])
	}
	keys, err := n.countKeys(ctx, info)
	if err != nil {
		return nil, err
	}
	functions, err := n.holdsFunctions(ctx)
	if err != nil {
		return nil, err
	}
	if t.resume != nil { // what it holds is ours
		t.holds = t.holds || t.resume.Phase == phaseEmptying
		t.functions = t.functions || functions
		return info, nil
	}
	if !r.Replace {
		if err := checkEmpty(n, keys, functions); err != nil {
			return nil, err
		}
	}
	// Without INFO only database 0 is seen.
	t.holds = t.holds || keys > 0 || functions || r.Replace && len(info) == 0
	t.functions = t.functions || functions
	return info, nil
}

// mayRescue makes sure that what the target holds can be read, and brought back
// key by key.
func (r *Live) mayRescue(ctx context.Context, s *backup.Stored, state *stateDir, t *target, infos []serverInfo) error {
	if t.rescue == "" {
		if t.rescue = Method(s.Method); t.rescue != DUMP {
			t.rescue = PSYNC // the others need the server's files
		}
	}
	if t.rescue != PSYNC && t.rescue != DUMP {
		return fmt.Errorf("unknown method %q to read the target before it is emptied (want %s or %s)", t.rescue, PSYNC, DUMP)
	}
	var size int64
	for i, n := range t.topo.nodes {
		version, err := n.rdbVersion(ctx, infos[i])
		if err != nil {
			return err
		}
		if !rdb.Walks(version) {
			return refuse(n, ErrCannotHold, "use Offline, or empty the server yourself", "what it holds is in RDB version %d, which this program cannot bring back key by key", version)
		}
		if t.rescue == PSYNC {
			if err := n.mayPSYNC(ctx); err != nil {
				return fmt.Errorf("read what the target holds: %w", err)
			}
		} else if err := n.mayRun(ctx, []string{"SCAN", "0"}, []string{"DUMP", "key"}); err != nil {
			return fmt.Errorf("read what the target holds: %w", err)
		}
		if err := r.readsBack(ctx, n, infos[i]); err != nil {
			return err
		}
		size += infos[i].int("used_memory_dataset")
	}
	if t.resume != nil {
		return nil
	}
	return step.CheckSpace(existing(state.dir), size)
}

// readsBack reads what a server with modules holds: only that tells whether it
// can be brought back.
func (r *Live) readsBack(ctx context.Context, n *node, info serverInfo) error {
	if loaded, ok := n.modules(ctx, info); ok && len(loaded) == 0 {
		return nil
	}
	c, err := n.open(ctx, 0)
	if err != nil {
		return err
	}
	defer c.close()
	file, _, _, err := c.snapshot()
	if denied(err) {
		return nil // it is read with DUMP, and looked at before anything goes
	}
	var held RDBInfo
	if err == nil {
		held, err = rdb.Read(ctx, file, rdb.Visit{})
	}
	if err != nil {
		return serverError("read", n.object(), ctxFirst(ctx, err))
	}
	return returns(n.object(), held)
}

// returns refuses what could not be brought back key by key.
func returns(object string, held RDBInfo) error {
	why := held.NotWalked
	if len(held.ModuleAux) > 0 {
		why = fmt.Sprintf("it has data that modules keep outside of keys (%v)", moduleTypes(held))
	}
	if why == "" {
		return nil
	}
	return &backup.Error{Op: "restore", Object: object, Kind: ErrCannotHold, Err: fmt.Errorf("what the target holds could not be brought back: %s", why),
		Next: "use Offline, or empty the server yourself"}
}

// Restore writes the set. A failure puts back what was there, also after ctx has
// ended; where that fails too, Undo tries again.
func (r *Live) Restore(ctx context.Context, s *backup.Stored, progress func(backup.Event)) ([]backup.Item, error) {
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return nil, err
	}
	defer state.close()
	t, err := r.look(ctx, s, state)
	if err != nil {
		return nil, err
	}
	items := t.items(r.StateDir)
	j := t.resume
	if j != nil && j.Phase == phaseRestored {
		return items, nil
	}
	if j == nil {
		j = newJournal("live", r.Name(), t.topo.origin(), s)
		if err := r.save(ctx, state, j, t); err != nil {
			return nil, errors.Join(err, state.remove())
		}
	}
	if j.Rescue != "" {
		for i := range items {
			items[i].Detail = "key by key into " + t.topo.origin() + "; what it held is in the set " + j.Rescue
		}
	}
	e := backup.Event{Component: r.Name(), Phase: backup.PhaseRestore, TotalBytes: s.Bytes, TotalItems: s.Items}
	err = r.write(ctx, state, j, t, s, func(keys int) {
		if e.Items += int64(keys); s.Items > 0 {
			// What is sent is larger than the file: each key has its own footer.
			e.Bytes = s.Bytes * e.Items / s.Items
		}
		progress(e)
	})
	if err != nil {
		ctx, cancel := step.Undoing(ctx)
		defer cancel()
		return items, errors.Join(serverError("write to", t.topo.origin(), err), r.back(ctx, state, j, s))
	}
	e.Done, e.Items, e.Bytes = true, s.Items, s.Bytes
	progress(e)
	return items, nil
}

// save takes a set of what the target holds, and reads it back.
func (r *Live) save(ctx context.Context, state *stateDir, j *journal, t *target) error {
	if err := state.save(ctx, j); err != nil || !t.holds {
		return err
	}
	set, err := backup.Take(ctx, state.dir, backup.Options{Label: "replaced by the restore of " + j.SetDir},
		&Source{Client: r.Client, Component: r.Name(), Method: t.rescue, Commands: r.Commands})
	if err != nil {
		return fmt.Errorf("save what would be replaced: %w", err)
	}
	j.Rescue = set.Dir
	_, _, err = openRescue(ctx, j)
	return err
}

// openRescue opens and checks the set of what was there.
func openRescue(ctx context.Context, j *journal) (*backup.Stored, Details, error) {
	var d Details
	set, err := backup.Open(j.Rescue)
	if err == nil {
		err = set.Verify(ctx, backup.VerifyOptions{})
	}
	if err != nil {
		return nil, d, err
	}
	old, ok := set.Component(j.Component)
	if !ok {
		return nil, d, fmt.Errorf("the set %s has no component %q", j.Rescue, j.Component)
	}
	if d, err = detailsOf(old); err != nil {
		return nil, d, err
	}
	for _, n := range d.Nodes {
		if err := returns(j.Target, n.RDB); err != nil {
			return nil, d, err
		}
	}
	return old, d, nil
}

// write empties the target if it held something, and writes the set.
func (r *Live) write(ctx context.Context, state *stateDir, j *journal, t *target, s *backup.Stored, count func(int)) error {
	if j.Phase == phaseEmptying || j.Phase == phaseSaving && t.holds {
		if err := state.next(ctx, j, phaseEmptying); err != nil {
			return err
		}
		if err := t.topo.flush(ctx, true); err != nil {
			return err
		}
	}
	if err := state.next(ctx, j, phaseWriting); err != nil {
		return err
	}
	w := newWriter(ctx, t.topo.nodes, count)
	w.skip = j.Acked
	last := time.Now()
	w.saved = func(acked int64) error {
		if time.Since(last) < journalEvery || acked <= j.Acked {
			return nil
		}
		last, j.Acked = time.Now(), acked
		return state.save(ctx, j)
	}
	err := w.write(s, t.details)
	w.close()
	if j.Acked = max(j.Acked, w.acked()); err != nil {
		j.Sent = max(1, w.next)
		return err
	}
	return state.next(ctx, j, phaseRestored)
}

// journalEvery is how often the journal is told how many keys are written.
const journalEvery = time.Second

// flush empties every node.
func (t *topology) flush(ctx context.Context, functions bool) error {
	for _, n := range t.nodes {
		c, err := n.open(ctx, 0)
		if err != nil {
			return err
		}
		c.idle = slowLimit
		_, err = c.command("FLUSHALL")
		c.close()
		if err != nil {
			return serverError("empty", n.object(), ctxFirst(ctx, err))
		}
	}
	if functions {
		return t.flushFunctions(ctx)
	}
	return nil
}

// flushFunctions removes the function libraries, where servers know of them.
func (t *topology) flushFunctions(ctx context.Context) error {
	for _, n := range t.nodes {
		if err := n.do(ctx, "FUNCTION", "FLUSH").Err(); err != nil && !unknownCommand(err) {
			if held, e := n.holdsFunctions(ctx); e == nil && !held {
				continue
			}
			return serverError("remove the functions of", n.object(), err)
		}
	}
	return nil
}

// Prove compares the target with the set, as [Source.Prove] does. It changes
// nothing.
func (r *Live) Prove(ctx context.Context, s *backup.Stored) error {
	return (&Source{Client: r.Client, Commands: r.Commands, Sample: r.Sample}).Prove(ctx, s)
}

// Undo puts back what Restore replaced, or removes what it wrote into an empty
// target, in this process or a later one. The copy of what was there is opened
// and checked before anything is removed. Without a restore to undo it does
// nothing. After an error it may be called again.
func (r *Live) Undo(ctx context.Context, s *backup.Stored) error {
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return err
	}
	defer state.close()
	j, err := state.load()
	if err != nil || j == nil {
		return err
	}
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return err
	}
	if err := j.fits("live", topo.origin(), s); err != nil {
		return err
	}
	return r.back(ctx, state, j, s)
}

// back goes back to what was there.
func (r *Live) back(ctx context.Context, state *stateDir, j *journal, s *backup.Stored) error {
	err := r.goBack(ctx, state, j, s)
	if err == nil {
		return state.remove()
	}
	where := "the server may hold keys of the set"
	if j.Rescue != "" {
		where = "what the server held is in the set " + j.Rescue
	}
	return &backup.Error{Op: "undo the restore of", Object: j.Target, Err: fmt.Errorf("rollback failed, %s: %w", where, err), Next: "fix the cause and call Undo", Retry: true}
}

func (r *Live) goBack(ctx context.Context, state *stateDir, j *journal, s *backup.Stored) error {
	if j.Phase == phaseSaving {
		return nil
	}
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return err
	}
	w := newWriter(ctx, topo.nodes, func(int) {})
	defer w.close()
	if j.Rescue == "" {
		d, err := detailsOf(s)
		if err == nil {
			err = state.next(ctx, j, phaseUndoing)
		}
		if err == nil {
			err = (&remover{w: w, acked: j.Acked, sent: j.Sent}).run(s, d)
		}
		for _, n := range d.Nodes {
			if err == nil && n.RDB.Functions > 0 {
				err = topo.flushFunctions(ctx)
			}
		}
		return err
	}
	old, d, err := openRescue(ctx, j)
	if err == nil {
		err = state.next(ctx, j, phaseUndoing)
	}
	if err == nil {
		err = topo.flush(ctx, true)
	}
	if err == nil {
		w.replace = true
		err = w.write(old, d)
	}
	return err
}

// Accept forgets the restore: there is no Undo any more. The set of what was
// replaced stays in StateDir.
func (r *Live) Accept(ctx context.Context, s *backup.Stored) error {
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return err
	}
	defer state.close()
	j, err := state.load()
	if err != nil || j == nil {
		return err
	}
	if j.Set != identity(s) {
		return j.fits(j.Kind, j.Target, s)
	}
	if j.Phase != phaseRestored {
		return j.unfinished("it cannot be accepted", "finish it with Restore, or go back with Undo")
	}
	return state.remove()
}

var (
	_ backup.Restorer = (*Live)(nil)
	_ backup.Undoer   = (*Live)(nil)
	_ backup.Accepter = (*Live)(nil)
)

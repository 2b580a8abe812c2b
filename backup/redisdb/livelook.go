package redisdb

import (
	"context"
	"errors"
	"fmt"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// target is the result of Plan's checks.
type target struct {
	topo      *topology
	infos     []serverInfo // of its nodes
	details   Details
	holds     bool // it has keys or functions
	functions bool // the target or the set has functions
	rescue    Method
	resume    *journal // of an earlier run of the same restore
}

// look makes all checks.
func (r *Live) look(ctx context.Context, s *backup.Stored, state *stateDir) (*target, error) {
	if r.Client == nil {
		return nil, errors.New("the client is nil")
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
			return nil, offlineOnly(n.File, n.RDB.NotWalked)
		}
		if len(n.RDB.ModuleAux) > 0 {
			return nil, offlineOnly(n.File, fmt.Sprintf("it has data that modules keep outside "+
				"of keys (%v)", moduleTypes(n.RDB)))
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
	for _, n := range t.topo.nodes {
		info, err := r.lookAt(ctx, n, t, version)
		if err != nil {
			return nil, err
		}
		t.infos = append(t.infos, info)
	}
	if err := checkMemory(t.topo.nodes, t.infos, t.details); err != nil {
		return nil, err
	}
	for _, n := range t.topo.nodes {
		if err := n.mayRun(ctx, t.needed(keys)...); err != nil {
			return nil, err
		}
	}
	if t.holds {
		err = r.mayRescue(ctx, s, state, t)
	}
	return t, err
}

// offlineOnly refuses a file that cannot be restored key by key.
func offlineOnly(file, why string) error {
	return &backup.Error{Op: "restore", Object: file, Kind: ErrOfflineOnly, Err: errors.New(why),
		Next: "use Offline, which places the file as it is"}
}

// unfinished finds the journal of an earlier run.
func (r *Live) unfinished(ctx context.Context, s *backup.Stored, state *stateDir,
	t *target) (*journal, error) {
	j, err := state.load()
	if err != nil || j == nil {
		return nil, err
	}
	if err := j.fits("live", t.topo.origin(), t.topo.ids, s); err != nil {
		return nil, err
	}
	switch j.Phase {
	case phaseSaving:
		return nil, nil
	case phaseUndoing:
		return nil, j.unfinished("the undo of it was interrupted", "call Undo again")
	case phaseRestored:
		err := compare(ctx, t.topo.nodes, r.Client, s, r.Sample)
		if errors.Is(err, backup.ErrDiffers) {
			return nil, j.unfinished("somebody has written to the server since",
				"call Accept to keep its present data, or Undo to restore its data from before the restore")
		}
		return j, err
	}
	return j, nil
}

// lookAt checks one node.
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
	if err == nil {
		err = checkLargest(ctx, n, t.details)
	}
	if err != nil {
		return nil, err
	}
	if product, major, _ := info.version(); len(info) > 0 && product == "redis" && major < 5 {
		return nil, refuse(n, nil, "use Offline", "version %s cannot restore expiries as points in "+
			"time; that came with 5.0", info["redis_version"])
	}
	keys, err := n.countKeys(ctx, info)
	if err != nil {
		return nil, err
	}
	functions, err := n.holdsFunctions(ctx)
	if err != nil {
		return nil, err
	}
	if t.resume != nil { // the data is ours
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

// mayRescue checks that the target's data can be read, and restored key by key.
func (r *Live) mayRescue(ctx context.Context, s *backup.Stored, state *stateDir,
	t *target) error {
	if t.rescue == "" {
		if t.rescue = Method(s.Method); t.rescue != DUMP {
			t.rescue = PSYNC // the others need the server's files
		}
	}
	if t.rescue != PSYNC && t.rescue != DUMP {
		return fmt.Errorf("unknown method %q to read the target before it is emptied (want %s or %s)",
			t.rescue, PSYNC, DUMP)
	}
	var size int64
	for i, n := range t.topo.nodes {
		version, err := n.rdbVersion(ctx, t.infos[i])
		if err != nil {
			return err
		}
		if !rdb.Walks(version) {
			return refuse(n, ErrCannotHold, "use Offline, or empty the server yourself",
				"its data has RDB version %d, which this program cannot restore key by key", version)
		}
		if t.rescue == PSYNC {
			if err := n.mayPSYNC(ctx); err != nil {
				return fmt.Errorf("read the target's data: %w", err)
			}
		} else if err := n.mayRun(ctx, []string{"SCAN", "0"}, []string{"DUMP", "key"}); err != nil {
			return fmt.Errorf("read the target's data: %w", err)
		}
		if err := r.readsBack(ctx, n, t.infos[i]); err != nil {
			return err
		}
		size += t.infos[i].int("used_memory_dataset")
	}
	if t.resume != nil {
		return nil
	}
	return step.CheckSpace(existing(state.dir), size)
}

// readsBack reads the data of a server with modules. Only that shows whether it can be restored.
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
		return nil // it is read with DUMP, and checked before anything is removed
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

// returns refuses data that could not be restored key by key.
func returns(object string, held RDBInfo) error {
	why := held.NotWalked
	if len(held.ModuleAux) > 0 {
		why = fmt.Sprintf("it has data that modules keep outside of keys (%v)", moduleTypes(held))
	}
	if why == "" {
		return nil
	}
	return &backup.Error{Op: "restore", Object: object, Kind: ErrCannotHold,
		Err:  fmt.Errorf("the target's data could not be restored: %s", why),
		Next: "use Offline, or empty the server yourself"}
}

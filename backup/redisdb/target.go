package redisdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// checkState refuses a server that cannot or must not take the data.
func checkState(ctx context.Context, n *node, info serverInfo, version int) error {
	switch {
	case info["loading"] == "1" || info["async_loading"] == "1":
		return &backup.Error{Op: "restore", Object: n.object(),
			Err: errors.New("the server is loading its data"), Next: "wait until INFO says loading:0",
			Retry: true}
	case info["role"] == "slave":
		return refuse(n, nil, "restore its master, "+info["master_host"]+":"+info["master_port"],
			"it is a replica")
	}
	newest, err := n.rdbVersion(ctx, info)
	if err != nil {
		return err
	}
	const valkey, common = 80, 11 // Valkey loads nothing in between: those numbers are Redis' (9.0)
	if version > newest || newest >= valkey && version > common && version < valkey {
		return refuse(n, backup.ErrTooNew, "restore into a server at least as new as the one that was "+
			"backed up, and of the same product",
			"the data is in RDB version %d, the server (%s) loads up to %d", version, info["redis_version"],
			newest)
	}
	return nil
}

// checkEmpty refuses a server that has keys or functions.
func checkEmpty(n *node, keys int64, functions bool) error {
	next := "set Replace if its data may be lost"
	if keys > 0 {
		return refuse(n, backup.ErrNotEmpty, next, "it has %d keys", keys)
	}
	if functions {
		return refuse(n, backup.ErrNotEmpty, next, "it has function libraries")
	}
	return nil
}

// countKeys counts the keys of a node. Without INFO only database 0 is seen.
func (n *node) countKeys(ctx context.Context, info serverInfo) (int64, error) {
	if len(info) > 0 {
		return info.keys(), nil
	}
	keys, err := n.do(ctx, "DBSIZE").Int64()
	if err != nil {
		return 0, serverError("count the keys of", n.object(), err)
	}
	return keys, nil
}

// checkDatabases selects the highest database of the set, because a server exits when it loads a
// file with too many databases (Redis 7.0).
func checkDatabases(ctx context.Context, n *node, d Details) error {
	highest := 0
	for _, from := range d.Nodes {
		for db := range from.RDB.Databases {
			highest = max(highest, db)
		}
	}
	if highest == 0 {
		return nil
	}
	if n.id != "" {
		return refuse(n, ErrCannotHold, "restore into a server that is not part of a cluster",
			"the set has keys in database %d, but a cluster has only database 0", highest)
	}
	c, err := n.open(ctx, 0)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.command("SELECT", strconv.Itoa(highest))
	switch {
	case err == nil:
		return nil
	case isReply(err) && !denied(err):
		return refuse(n, ErrCannotHold, "raise its setting databases to "+strconv.Itoa(highest+1)+
			" or more",
			"the set has keys in database %d: %w", highest, err)
	}
	return serverError("restore", n.object(), ctxFirst(ctx, err))
}

// moduleOf maps the types of the modules that Redis Ltd. publishes to the modules' names, as in
// MODULE LIST but in lower case.
var moduleOf = map[string][]string{
	"ReJSON-RL": {"rejson"}, "MBbloom--": {"bf"}, "MBbloomCF": {"bf"}, "CMSk-TYPE": {"bf"},
	"TopK-TYPE": {"bf"}, "TDIS-TYPE": {"bf"},
	"TSDB-TYPE": {"timeseries"}, "graphdata": {"graph"}, "trietype0": {"search", "searchlight", "ft"},
	"ft_index0": {"search", "searchlight", "ft"},
	"ft_invidx": {"search", "searchlight", "ft"}, "numericdx": {"search", "searchlight", "ft"},
	"vectorset": {"vectorset"},
}

// moduleTypes lists the module types of a file.
func moduleTypes(info RDBInfo) []string {
	types := map[string]bool{}
	for name := range info.Modules {
		types[name] = true
	}
	for name := range info.ModuleAux {
		types[name] = true
	}
	return slices.Sorted(maps.Keys(types))
}

// checkModules refuses a server without the modules of the set's data. It would exit while it loads
// such a file, and refuse RESTORE (Redis 7.0).
func checkModules(ctx context.Context, n *node, info serverInfo, d Details) error {
	var types []string
	had := map[string]bool{}
	for _, from := range d.Nodes {
		types = append(types, moduleTypes(from.RDB)...)
		for _, name := range from.Modules {
			had[name] = true
		}
	}
	if len(types) == 0 {
		return nil
	}
	loaded, told := n.modules(ctx, info)
	if !told {
		return refuse(n, backup.ErrNotAllowed, "grant the user +module|list or +info",
			"the set has data of modules (%s), but the user may not list the server's modules",
			strings.Join(types, ", "))
	}
	for _, t := range types {
		var ok bool
		if known := moduleOf[t]; known != nil {
			ok = slices.ContainsFunc(known, func(name string) bool { return loaded[name] })
		} else {
			// The type is of an unknown module, so every module of the old server must
			// be loaded.
			ok = len(had) > 0
			for name := range had {
				ok = ok && loaded[name]
			}
		}
		if !ok {
			return refuse(n, ErrCannotHold, "load the module that wrote the data",
				"the set has data of the module type %q, but the server lacks its module (it has: %s)",
				t, strings.Join(slices.Sorted(maps.Keys(loaded)), ", "))
		}
	}
	return nil
}

// checkMemory refuses servers whose maxmemory is too small. Depending on their policy they would
// evict restored keys, or refuse keys half-way.
func checkMemory(nodes []*node, infos []serverInfo, d Details) error {
	var need, room int64
	for _, from := range d.Nodes {
		// The need is the memory in the old server. Without compression the file is about
		// half of that, and never much more.
		need += max(from.Memory, from.RDB.Size+from.RDB.Expands)
	}
	for _, info := range infos {
		limit := info.int("maxmemory")
		if limit == 0 {
			return nil // no limit, or unknown
		}
		// The memory of an empty server counts too.
		room += limit - max(0, info.int("used_memory")-info.int("used_memory_dataset"))
	}
	if need > room {
		return refuse(nodes[0], ErrCannotHold, "raise maxmemory",
			"maxmemory leaves %d bytes for data, but the set needs about %d", room, need)
	}
	return nil
}

// evicted refuses servers that have evicted keys since Plan. The needed memory depends on their
// settings, so the estimate can be wrong.
func (t *target) evicted(ctx context.Context) error {
	for i, n := range t.topo.nodes {
		info, err := n.info(ctx)
		if err != nil {
			return err
		}
		if gone := info.int("evicted_keys") - t.infos[i].int("evicted_keys"); gone > 0 {
			return &backup.Error{Op: "write to", Object: t.topo.origin(), Kind: ErrCannotHold,
				Err:  fmt.Errorf("it evicted %d keys while the set was written", gone),
				Next: "raise maxmemory"}
		}
	}
	return nil
}

// checkLargest refuses a server whose limit is below the set's largest value. It would close the
// connection in the middle of the command (Redis 7.0).
func checkLargest(ctx context.Context, n *node, d Details) error {
	var largest int64
	for _, from := range d.Nodes {
		largest = max(largest, from.RDB.Largest)
	}
	if largest == 0 { // an older set does not have it
		return nil
	}
	largest += 1 + rdb.Footer
	for _, name := range []string{"proto-max-bulk-len", "client-query-buffer-limit"} {
		value, told, err := n.config(ctx, name)
		if err != nil {
			return err
		}
		limit, err := strconv.ParseInt(value, 10, 64)
		if told && err == nil && largest > limit {
			return refuse(n, ErrCannotHold, "raise "+name+", or use Offline",
				"the set's largest value has %d bytes, but its setting %s is %d", largest, name, limit)
		}
	}
	return nil
}

package mongo

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

// commands is filled by init because run, which the functions reach, reads it.
var commands map[string]func(*conn, request) (bson.Raw, error)

func init() {
	nothing := func(*conn, request) (bson.Raw, error) { return ok() }
	commands = map[string]func(*conn, request) (bson.Raw, error){
		"hello": (*conn).hello, "isMaster": (*conn).hello, "ismaster": (*conn).hello,
		"buildInfo": (*conn).buildInfo, "buildinfo": (*conn).buildInfo,
		"ping": nothing, "endSessions": nothing, "refreshSessions": nothing, "startSession": nothing,
		"killSessions": (*conn).killSessions, "killAllSessions": nothing,
		"saslStart": (*conn).saslStart, "saslContinue": (*conn).saslContinue,
		"getParameter":  (*conn).getParameter,
		"listDatabases": (*conn).listDatabases, "listCollections": (*conn).listCollections,
		"listIndexes": (*conn).listIndexes,
		"create":      (*conn).createCollection, "createIndexes": (*conn).createIndexes,
		"drop":         (*conn).drop,
		"dropDatabase": (*conn).dropDatabase, "renameCollection": (*conn).rename, "collMod": nothing,
		"insert": (*conn).insert, "update": (*conn).update, "delete": (*conn).delete,
		"find": (*conn).find, "getMore": (*conn).getMore, "killCursors": (*conn).killCursors,
		"count": (*conn).count, "aggregate": (*conn).aggregate, "collStats": (*conn).collStats,
		"collstats": (*conn).collStats,
		"dbStats":   (*conn).dbStats,
	}
}

func (c *conn) hello(q request) (bson.Raw, error) {
	d := bson.D{
		{Key: "helloOk", Value: true}, {Key: "ismaster", Value: true}, {Key: "isWritablePrimary",
			Value: true},
		{Key: "maxBsonObjectSize", Value: int32(16 << 20)}, {Key: "maxMessageSizeBytes",
			Value: int32(maxMessage)},
		{Key: "maxWriteBatchSize", Value: int32(100_000)}, {Key: "localTime",
			Value: primitive.NewDateTimeFromTime(now())},
		{Key: "logicalSessionTimeoutMinutes", Value: int32(30)}, {Key: "minWireVersion", Value: int32(0)},
		{Key: "maxWireVersion", Value: int32(c.s.wire())}, {Key: "readOnly", Value: false},
	}
	switch {
	case c.s.o.Mongos:
		d = append(d, bson.E{Key: "msg", Value: "isdbgrid"})
	case !c.s.o.Standalone:
		d = append(d, bson.E{Key: "setName", Value: "lab"}, bson.E{Key: "setVersion", Value: int32(1)},
			bson.E{Key: "secondary", Value: false},
			bson.E{Key: "hosts", Value: bson.A{c.s.Addr()}}, bson.E{Key: "primary", Value: c.s.Addr()},
			bson.E{Key: "me", Value: c.s.Addr()})
	}
	if _, err := q.body.LookupErr("saslSupportedMechs"); err == nil {
		d = append(d, bson.E{Key: "saslSupportedMechs", Value: bson.A{"SCRAM-SHA-256"}})
	}
	return ok(d...)
}

// version returns the first three numbers of the version played.
func (s *Server) version() (v [3]int) {
	for i, p := range strings.SplitN(s.o.Version, ".", 3) {
		v[i], _ = strconv.Atoi(p)
	}
	return v
}

// wire is the wire version of a release: 4.2 8, 4.4 9, 5.0 13, 6.0 17, 7.0 21, 8.0 25.
func (s *Server) wire() int {
	v := s.version()
	switch {
	case v[0] >= 5:
		return min(13+4*(v[0]-5), 25)
	case v[0] == 4 && v[1] >= 4:
		return 9
	default:
		return 8
	}
}

// keepsZeroTimestamps says whether bypassEmptyTsReplacement is known:
// SERVER-88750, in 8.0 and backported to 7.0.13, 6.0.17 and 5.0.29.
func (s *Server) keepsZeroTimestamps() bool {
	v := s.version()
	least, backported := map[int]int{5: 29, 6: 17, 7: 13}[v[0]]
	return v[0] >= 8 || backported && v[1] == 0 && v[2] >= least
}

func (c *conn) buildInfo(request) (bson.Raw, error) {
	v := c.s.version()
	return ok(bson.E{Key: "version", Value: c.s.o.Version}, bson.E{Key: "gitVersion", Value: "lab"},
		bson.E{Key: "versionArray", Value: bson.A{int32(v[0]), int32(v[1]), int32(v[2]), int32(0)}},
		bson.E{Key: "maxBsonObjectSize", Value: int32(16 << 20)})
}

func (c *conn) getParameter(q request) (bson.Raw, error) {
	if _, err := q.body.LookupErr("authSchemaVersion"); err == nil {
		return ok(bson.E{Key: "authSchemaVersion", Value: int32(5)})
	}
	return nil, refusal{72, "InvalidOptions", "no option found to get"}
}

func (c *conn) killSessions(q request) (bson.Raw, error) {
	list, _ := q.body.Lookup("killSessions").ArrayOK()
	values, _ := list.Values()
	c.s.cmu.Lock()
	defer c.s.cmu.Unlock()
	for _, v := range values {
		for id, cu := range c.s.cursors {
			if cu.session != "" && cu.session == string(v.Document()) {
				delete(c.s.cursors, id)
			}
		}
	}
	return ok()
}

func (c *conn) listDatabases(request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	var list bson.A
	var names []string
	for n := range c.s.dbs {
		names = append(names, n)
	}
	slices.Sort(names)
	var total int64
	for _, n := range names {
		var size int64
		for _, k := range c.s.dbs[n] {
			size += k.bytes
		}
		total += size
		list = append(list, bson.D{{Key: "name", Value: n}, {Key: "sizeOnDisk", Value: size},
			{Key: "empty", Value: size == 0}})
	}
	return ok(bson.E{Key: "databases", Value: list}, bson.E{Key: "totalSize", Value: total})
}

func (c *conn) listCollections(q request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	filter, _ := q.body.Lookup("filter").DocumentOK()
	var names []string
	for n := range c.s.dbs[q.db] {
		names = append(names, n)
	}
	slices.Sort(names)
	var out []bson.Raw
	for _, n := range names {
		if filter != nil && !nameMatches(filter, n) {
			continue // before anything is built for it, so that many collections cost what they should
		}
		k := c.s.dbs[q.db][n]
		options := k.options
		if options == nil {
			options = bson.D{}
		}
		info := bson.D{{Key: "readOnly", Value: k.kind == "view"}}
		if k.kind == "collection" {
			info = append(info, bson.E{Key: "uuid", Value: primitive.Binary{Subtype: 4, Data: k.uuid}})
		}
		d := bson.D{{Key: "name", Value: n}, {Key: "type", Value: k.kind}, {Key: "options",
			Value: options}, {Key: "info", Value: info}}
		if k.kind == "collection" {
			d = append(d, bson.E{Key: "idIndex", Value: k.idIndex})
		}
		raw, err := bson.Marshal(d)
		if err != nil {
			return nil, err
		}
		if filter == nil || matches(raw, filter) {
			out = append(out, raw)
		}
	}
	return c.first(q, &cursor{db: q.db, fixed: out}, "$cmd.listCollections")
}

func (c *conn) listIndexes(q request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	k := c.s.collection(q.db, q.target)
	if k == nil {
		return nil, refusal{26, "NamespaceNotFound", "ns does not exist: " + q.db + "." + q.target}
	}
	if k.kind == "view" {
		return nil, refusal{166, "CommandNotSupportedOnView", "Namespace " + q.db + "." + q.target +
			" is a view, not a collection"}
	}
	var out []bson.Raw
	for _, x := range k.indexes {
		raw, err := bson.Marshal(x.spec)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return c.first(q, &cursor{db: q.db, fixed: out}, q.target)
}

func (c *conn) find(q request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	k := c.s.collection(q.db, q.target)
	if k != nil && k.kind == "view" {
		return nil, refusal{166, "CommandNotSupportedOnView", "the lab evaluates no views"}
	}
	cu := &cursor{db: q.db, coll: k}
	if f, isDoc := q.body.Lookup("filter").DocumentOK(); isDoc && len(f) > 5 {
		cu.filter = slices.Clone(f)
	}
	if level, _ := q.body.Lookup("readConcern", "level").StringValueOK(); level == "snapshot" {
		switch {
		case c.s.o.Standalone && !c.s.o.IgnoreSnapshot:
			return nil, refusal{123, "NotAReplicaSet", "node needs to be a replica set member to use " +
				"readConcern: snapshot"}
		case !c.s.o.IgnoreSnapshot:
			cu.at = max(c.s.clock, 1)
			if at, isTime := timestamp(q.body.Lookup("readConcern", "atClusterTime")); isTime {
				cu.at = at
			}
			if k != nil && k.born > cu.at {
				return nil, refusal{246, "SnapshotUnavailable",
					"Unable to read from a snapshot due to pending collection catalog changes"}
			}
		}
	}
	return c.first(q, cu, q.target)
}

// first answers with a cursor's first batch and keeps the cursor if more is to come.
func (c *conn) first(q request, cu *cursor, coll string) (bson.Raw, error) {
	most := int64(101)
	for _, path := range [][]string{{"batchSize"}, {"cursor", "batchSize"}} {
		if v, err := q.body.LookupErr(path...); err == nil {
			most = integer(v)
			if most == 0 {
				most = -1 // an empty first batch
			}
		}
	}
	if id, isDoc := q.body.Lookup("lsid").DocumentOK(); isDoc {
		cu.session = string(id)
	}
	var id int64
	return c.batch(cu, "firstBatch", coll, most, func(more bool) int64 {
		single, _ := q.body.Lookup("singleBatch").BooleanOK()
		if !more || single {
			return 0
		}
		c.s.cmu.Lock()
		defer c.s.cmu.Unlock()
		c.s.nextID++
		id = c.s.nextID
		c.s.cursors[id] = cu
		return id
	})
}

// batch builds a cursor reply. most below 0 asks for no documents, 0 for as
// many as fit into 16 MB.
func (c *conn) batch(cu *cursor, field, coll string, most int64,
	keep func(more bool) int64) (bson.Raw, error) {
	at, out := bsoncore.AppendDocumentStart(c.cursor[:0])
	cursorAt, out := bsoncore.AppendDocumentElementStart(out, "cursor")
	batchAt, out := bsoncore.AppendArrayElementStart(out, field)
	more := true
	if most >= 0 {
		if cu.coll == nil && cu.fixed == nil {
			more = false
		} else {
			out, _, more = cu.next(out, most, 16<<20)
		}
	}
	out, _ = bsoncore.AppendArrayEnd(out, batchAt)
	if cu.at != 0 && field == "firstBatch" {
		out = bsoncore.AppendTimestampElement(out, "atClusterTime", epoch, cu.at)
	}
	out = bsoncore.AppendInt64Element(out, "id", keep(more))
	out = bsoncore.AppendStringElement(out, "ns", cu.db+"."+coll)
	out, _ = bsoncore.AppendDocumentEnd(out, cursorAt)
	out = bsoncore.AppendDoubleElement(out, "ok", 1)
	out, err := bsoncore.AppendDocumentEnd(out, at)
	c.cursor = out
	return bson.Raw(out), err
}

func (c *conn) getMore(q request) (bson.Raw, error) {
	id := integer(q.body.Lookup("getMore"))
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	c.s.cmu.Lock()
	cu := c.s.cursors[id]
	c.s.cmu.Unlock()
	if cu == nil {
		return nil, refusal{43, "CursorNotFound", "cursor id " + strconv.FormatInt(id, 10) + " not found"}
	}
	drop := func() {
		c.s.cmu.Lock()
		delete(c.s.cursors, id)
		c.s.cmu.Unlock()
	}
	if cu.coll != nil && cu.coll.gone {
		drop()
		return nil, refusal{175, "QueryPlanKilled", "collection dropped. UUID " +
			hex.EncodeToString(cu.coll.uuid)}
	}
	return c.batch(cu, "nextBatch", q.target, integer(q.body.Lookup("batchSize")),
		func(more bool) int64 {
			if more {
				return id
			}
			drop()
			return 0
		})
}

func (c *conn) killCursors(q request) (bson.Raw, error) {
	list, _ := q.body.Lookup("cursors").ArrayOK()
	values, _ := list.Values()
	killed, lost := bson.A{}, bson.A{}
	c.s.cmu.Lock()
	defer c.s.cmu.Unlock()
	for _, v := range values {
		id := integer(v)
		if c.s.cursors[id] == nil {
			lost = append(lost, id)
			continue
		}
		delete(c.s.cursors, id)
		killed = append(killed, id)
	}
	return ok(bson.E{Key: "cursorsKilled", Value: killed}, bson.E{Key: "cursorsNotFound", Value: lost},
		bson.E{Key: "cursorsAlive", Value: bson.A{}}, bson.E{Key: "cursorsUnknown", Value: bson.A{}})
}

func (c *conn) count(q request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	n := 0
	if k := c.s.collection(q.db, q.target); k != nil {
		n = k.live
	}
	return ok(bson.E{Key: "n", Value: int32(n)})
}

func (c *conn) collStats(q request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	var n, size int64
	if k := c.s.collection(q.db, q.target); k != nil {
		n, size = int64(k.live), k.bytes
	}
	return ok(bson.E{Key: "ns", Value: q.db + "." + q.target}, bson.E{Key: "count", Value: n},
		bson.E{Key: "size", Value: size})
}

// dbStats sums up a database.
func (c *conn) dbStats(q request) (bson.Raw, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	var n, size int64
	for _, k := range c.s.dbs[q.db] {
		n, size = n+int64(k.live), size+k.bytes
	}
	return ok(bson.E{Key: "db", Value: q.db}, bson.E{Key: "objects", Value: n}, bson.E{Key: "dataSize",
		Value: float64(size)})
}

// aggregate knows the pipelines that count: an optional $match, then $group or $count.
func (c *conn) aggregate(q request) (bson.Raw, error) {
	list, _ := q.body.Lookup("pipeline").ArrayOK()
	stages, _ := list.Values()
	var filter bson.Raw
	field := ""
	for _, st := range stages {
		stage := st.Document().Index(0)
		switch stage.Key() {
		case "$match":
			filter = stage.Value().Document()
		case "$count":
			field = stage.Value().StringValue()
		case "$group":
			field = "n"
		default:
			return nil, refusal{40324, "Location40324", "Unrecognized pipeline stage name: '" + stage.Key() +
				"'"}
		}
	}
	if field == "" {
		return nil, refusal{40324, "Location40324", "the lab knows pipelines that count only"}
	}
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	cu := &cursor{db: q.db}
	n := int32(0)
	if k := c.s.collection(q.db, q.target); k != nil {
		for _, d := range k.docs {
			if d.died == 0 && (filter == nil || matches(d.raw, filter)) {
				n++
			}
		}
	}
	if n > 0 {
		raw, err := bson.Marshal(bson.D{{Key: "_id", Value: int32(1)}, {Key: field, Value: n}})
		if err != nil {
			return nil, err
		}
		cu.fixed = []bson.Raw{raw}
	}
	return c.first(q, cu, q.target)
}

// values returns the documents of a command, from its sequence or its body.
func (q request) values(field string) []bson.Raw {
	out := make([]bson.Raw, 0, len(q.docs))
	for _, d := range q.docs {
		out = append(out, bson.Raw(d))
	}
	list, _ := q.body.Lookup(field).ArrayOK()
	_, rest, _ := bsoncore.ReadLength(list)
	for {
		e, after, isElement := bsoncore.ReadElement(rest)
		if !isElement {
			return out
		}
		if v := e.Value(); v.Type == bson.TypeEmbeddedDocument {
			out = append(out, bson.Raw(v.Data))
		}
		rest = after
	}
}

package mongo

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
)

// createOptions is what create takes in 7.0, without what is not stored.
var createOptions = []string{
	"capped", "size", "max", "storageEngine", "validator", "validationLevel", "validationAction",
	"indexOptionDefaults", "viewOn", "pipeline",
	"collation", "timeseries", "expireAfterSeconds", "changeStreamPreAndPostImages", "clusteredIndex",
	"encryptedFields", "autoIndexId", "flags",
}

var generic = []string{"lsid", "$db", "$clusterTime", "writeConcern", "comment", "$readPreference",
	"maxTimeMS", "txnNumber", "apiVersion"}

func (c *conn) createCollection(q request) (bson.Raw, error) {
	var body bson.D
	if err := bson.Unmarshal(q.body, &body); err != nil {
		return nil, err
	}
	var options, idIndex bson.D
	for _, e := range body[1:] {
		switch {
		case e.Key == "idIndex":
			idIndex, _ = e.Value.(bson.D)
		case slices.Contains(createOptions, e.Key):
			options = append(options, e)
		case !slices.Contains(generic, e.Key):
			return nil, refusal{40415, "Location40415", "BSON field 'create." + e.Key +
				"' is an unknown field."}
		}
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.collection(q.db, q.target) != nil {
		return nil, refusal{48, "NamespaceExists", "Collection " + q.db + "." + q.target +
			" already exists."}
	}
	switch {
	case lookup(options, "viewOn") != nil:
		k := c.s.create(q.db, q.target, "view", options, nil)
		k.idIndex = nil
		views := c.s.collection(q.db, "system.views")
		if views == nil {
			views = c.s.create(q.db, "system.views", "collection", nil, nil)
		}
		raw, err := bson.Marshal(append(bson.D{{Key: "_id", Value: q.db + "." + q.target}}, options...))
		if err != nil {
			return nil, err
		}
		views.add(raw, c.s.tick(), false)
	case lookup(options, "timeseries") != nil:
		c.s.create(q.db, q.target, "timeseries", options, nil)
		buckets := bson.D{{Key: "validator", Value: bson.D{{Key: "$jsonSchema",
			Value: bson.D{{Key: "required", Value: bson.A{"_id", "control", "data"}}}}}},
			{Key: "clusteredIndex", Value: true}, {Key: "timeseries", Value: lookup(options, "timeseries")}}
		c.s.create(q.db, "system.buckets."+q.target, "collection", buckets, nil)
	case lookup(options, "clusteredIndex") != nil && idIndex != nil:
		return nil, refusal{72, "InvalidOptions", "cannot specify both 'idIndex' and 'clusteredIndex'"}
	default:
		c.s.create(q.db, q.target, "collection", options, idIndex)
	}
	return ok()
}

// indexOptions is what createIndexes takes in 7.0.
var indexOptions = []string{
	"v", "key", "name", "unique", "sparse", "background", "expireAfterSeconds",
	"partialFilterExpression", "collation", "hidden", "storageEngine",
	"weights", "default_language", "language_override", "textIndexVersion", "2dsphereIndexVersion",
	"bits", "min", "max", "wildcardProjection",
	"clustered", "prepareUnique",
}

func (c *conn) createIndexes(q request) (bson.Raw, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	k := c.s.collection(q.db, q.target)
	if k == nil {
		k = c.s.create(q.db, q.target, "collection", nil, nil)
	}
	lenient, _ := q.body.Lookup("ignoreUnknownIndexOptions").BooleanOK()
	for _, raw := range q.values("indexes") {
		var given bson.D
		if err := bson.Unmarshal(raw, &given); err != nil {
			return nil, err
		}
		x := &index{spec: bson.D{{Key: "v", Value: int32(2)}, {Key: "key"}, {Key: "name"}},
			seen: map[string]struct{}{}}
		collation := lookup(k.options, "collation")
		for _, e := range given {
			switch {
			case e.Key == "v":
				x.spec[0].Value = e.Value
			case e.Key == "key":
				x.spec[1].Value = e.Value
			case e.Key == "name":
				x.spec[2].Value = e.Value
			case e.Key == "collation":
				collation = e.Value
			case slices.Contains(indexOptions, e.Key):
				x.spec = append(x.spec, e)
			case !lenient:
				return nil, refusal{197, "InvalidIndexSpecificationOption", "The field '" + e.Key +
					"' is not valid for an index specification"}
			}
		}
		// mongod 7.0 does not store the simple collation.
		if d, isDoc := collation.(bson.D); isDoc && lookup(d, "locale") != "simple" {
			x.spec = append(x.spec, bson.E{Key: "collation", Value: collation})
		}
		keys, _ := x.spec[1].Value.(bson.D)
		for _, e := range keys {
			x.keys = append(x.keys, e.Key)
			if e.Value == "2dsphere" && lookup(x.spec, "2dsphereIndexVersion") == nil {
				x.spec = append(x.spec, bson.E{Key: "2dsphereIndexVersion", Value: int32(3)})
			}
		}
		if slices.ContainsFunc(k.indexes, func(o *index) bool {
			return lookup(o.spec,
				"name") == lookup(x.spec, "name")
		}) {
			continue
		}
		if x.unique, _ = lookup(x.spec, "unique").(bool); x.unique {
			for _, d := range k.docs {
				if d.died != 0 {
					continue
				}
				key := x.key(d.raw)
				if _, dup := x.seen[key]; dup {
					return nil, refusal{11000, "DuplicateKey", "Index build failed: E11000 duplicate key error " +
						"collection: " + q.db + "." + q.target + " dup key: " + x.value(d.raw)}
				}
				x.seen[key] = struct{}{}
			}
		}
		k.indexes = append(k.indexes, x)
		c.s.tick()
	}
	return ok()
}

func (c *conn) drop(q request) (bson.Raw, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	k := c.s.collection(q.db, q.target)
	if k == nil {
		return nil, refusal{26, "NamespaceNotFound", "ns not found"}
	}
	c.s.remove(q.db, k)
	if views := c.s.collection(q.db, "system.views"); k.kind == "view" && views != nil {
		for i, d := range views.docs {
			if id, _ := bson.Raw(d.raw).Lookup("_id").StringValueOK(); d.died == 0 && id == q.db+"."+
				q.target {
				views.kill(i, c.s.tick())
			}
		}
	}
	if k.kind == "timeseries" {
		if b := c.s.collection(q.db, "system.buckets."+q.target); b != nil {
			c.s.remove(q.db, b)
		}
	}
	return ok()
}

func (c *conn) dropDatabase(q request) (bson.Raw, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, k := range c.s.dbs[q.db] {
		k.gone = true
	}
	delete(c.s.dbs, q.db)
	c.s.tick()
	return ok()
}

func (c *conn) rename(q request) (bson.Raw, error) {
	to, _ := q.body.Lookup("to").StringValueOK()
	drop, _ := q.body.Lookup("dropTarget").BooleanOK()
	fromDB, from, _ := strings.Cut(q.target, ".")
	toDB, to, _ := strings.Cut(to, ".")
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	k, old := c.s.collection(fromDB, from), c.s.collection(toDB, to)
	switch {
	case k == nil:
		return nil, refusal{26, "NamespaceNotFound", "Source collection " + q.target + " does not exist"}
	case k.kind != "collection":
		return nil, refusal{166, "CommandNotSupportedOnView", "cannot rename a " + k.kind}
	case strings.HasPrefix(from, "system.") != strings.HasPrefix(to, "system."):
		return nil, refusal{20, "IllegalOperation", "cannot rename to or from a system collection"}
	case old != nil && old.kind != "collection":
		return nil, refusal{166, "CommandNotSupportedOnView", "cannot rename to a " + old.kind}
	case old != nil && !drop:
		return nil, refusal{48, "NamespaceExists", "target namespace exists"}
	case old != nil:
		c.s.remove(toDB, old)
	}
	delete(c.s.dbs[fromDB], from)
	if c.s.dbs[toDB] == nil {
		c.s.dbs[toDB] = map[string]*collection{}
	}
	k.name = to
	c.s.dbs[toDB][to] = k
	c.s.tick()
	return ok()
}

func (c *conn) insert(q request) (bson.Raw, error) {
	keep := false
	if v, err := q.body.LookupErr("bypassEmptyTsReplacement"); err == nil {
		if !c.s.keepsZeroTimestamps() {
			return nil, refusal{40415, "Location40415", "BSON field 'insert.bypassEmptyTsReplacement' is " +
				"an unknown field."}
		}
		keep, _ = v.BooleanOK()
	}
	ordered := true
	if v, isBool := q.body.Lookup("ordered").BooleanOK(); isBool {
		ordered = v
	}
	unchecked, _ := q.body.Lookup("bypassDocumentValidation").BooleanOK()
	unchecked = unchecked && !c.s.o.AskValidators
	docs := q.values("documents")
	own(docs)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	k := c.s.collection(q.db, q.target)
	if k == nil {
		k = c.s.create(q.db, q.target, "collection", nil, nil)
	}
	if k.kind != "collection" {
		return nil, refusal{166, "CommandNotSupportedOnView", "the lab inserts into collections only, " +
			"not into a " + k.kind}
	}
	var n int32
	failed := bson.A{}
	k.docs = slices.Grow(k.docs, len(docs))
	for i, doc := range docs {
		at := c.s.tick()
		if !keep {
			stamp(doc, at)
		}
		if !unchecked && !k.valid(doc) {
			failed = append(failed, bson.D{{Key: "index", Value: int32(i)}, {Key: "code", Value: int32(121)},
				{Key: "errmsg", Value: "Document failed validation"}})
		} else if dup := k.add(doc, at, true); dup != nil {
			failed = append(failed, bson.D{{Key: "index", Value: int32(i)}, {Key: "code",
				Value: int32(11000)},
				{Key: "errmsg", Value: "E11000 duplicate key error collection: " + q.db + "." + q.target +
					" index: " +
					lookup(dup.index.spec, "name").(string) + " dup key: " + dup.value}})
		} else {
			n++
			continue
		}
		if ordered {
			break
		}
	}
	reply := bson.D{{Key: "n", Value: n}}
	if len(failed) > 0 {
		reply = append(reply, bson.E{Key: "writeErrors", Value: failed})
	}
	return ok(reply...)
}

// update knows replacements and upserts of whole documents, as documents and as [{$replaceRoot:
// {newRoot: {$literal: …}}}].
func (c *conn) update(q request) (bson.Raw, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	var n int32
	for _, u := range q.values("updates") {
		upsert, _ := u.Lookup("upsert").BooleanOK()
		k := c.s.collection(q.db, q.target)
		if k == nil && upsert {
			k = c.s.create(q.db, q.target, "collection", nil, nil)
		}
		if k == nil {
			continue
		}
		change := u.Lookup("u")
		var with bson.Raw
		switch change.Type {
		case bson.TypeArray:
			stages, _ := change.Array().Values()
			if len(stages) == 1 {
				with, _ = stages[0].Document().Lookup("$replaceRoot", "newRoot", "$literal").DocumentOK()
			}
		case bson.TypeEmbeddedDocument:
			if e, err := change.Document().IndexErr(0); err == nil && !strings.HasPrefix(e.Key(), "$") {
				with = change.Document()
			}
		}
		if with == nil {
			return nil, refusal{9, "FailedToParse", "the lab knows replacements only"}
		}
		filter := u.Lookup("q").Document()
		found := false
		for i, d := range k.docs {
			if found = d.died == 0 && matches(d.raw, filter); found {
				at := c.s.tick()
				k.kill(i, at)
				k.add(slices.Clone(with), at, false)
				n++
				break
			}
		}
		if !found && upsert { // of a whole document, with its _id
			if dup := k.add(slices.Clone(with), c.s.tick(), true); dup != nil {
				return nil, refusal{11000, "DuplicateKey", "E11000 duplicate key error collection: " + q.db +
					"." + q.target + " dup key: " + dup.value}
			}
			n++
		}
	}
	return ok(bson.E{Key: "n", Value: n}, bson.E{Key: "nModified", Value: n})
}

func (c *conn) delete(q request) (bson.Raw, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	var n int32
	for _, u := range q.values("deletes") {
		k := c.s.collection(q.db, q.target)
		if k == nil {
			continue
		}
		filter, limit := u.Lookup("q").Document(), integer(u.Lookup("limit"))
		at := c.s.tick()
		for i, d := range k.docs {
			if d.died == 0 && matches(d.raw, filter) {
				k.kill(i, at)
				n++
				if limit == 1 {
					break
				}
			}
		}
	}
	return ok(bson.E{Key: "n", Value: n})
}

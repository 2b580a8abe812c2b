package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"go.mongodb.org/mongo-driver/bson"
)

// state is a part of the stack that a revert must restore. It is read by other means than those
// that restore it.
type state struct {
	name string
	read func(context.Context, io.Writer) error
}

func (r *rehearsal) states() []state {
	all := []state{{"files", r.stack.writeFiles}, {"mongodb", r.store.writeMongo}}
	if r.stack.host != nil {
		all = append([]state{{"packages", r.stack.writePackages}}, all...)
	}
	if r.store.redis != nil {
		all = append(all, state{"redis", r.store.writeRedis})
	}
	return all
}

// snapshot reads every state as lines; nil if nothing will be reverted.
func (r *rehearsal) snapshot(ctx context.Context) (map[string][]string, error) {
	if r.o.fail == "" {
		return nil, nil
	}
	all := map[string][]string{}
	for _, st := range r.states() {
		var text strings.Builder
		if err := st.read(ctx, &text); err != nil {
			return nil, fmt.Errorf("read the state of %s: %w", st.name, err)
		}
		all[st.name] = strings.Split(text.String(), "\n")
	}
	return all, nil
}

func digest(lines []string) string {
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}

// recordBefore begins the proofs.
func (r *rehearsal) recordBefore(ctx context.Context) error {
	now, err := r.snapshot(ctx)
	for _, what := range slices.Sorted(maps.Keys(now)) {
		r.report.Proof = append(r.report.Proof, Proof{What: what, Before: digest(now[what]),
			was: now[what]})
	}
	return err
}

// recordUpgraded records the states after the upgrade.
func (r *rehearsal) recordUpgraded(ctx context.Context) error {
	now, err := r.snapshot(ctx)
	for i := range r.report.Proof {
		p := &r.report.Proof[i]
		p.Upgraded = digest(now[p.What])
	}
	return err
}

// prove compares what is now with what was before.
func (r *rehearsal) prove(ctx context.Context, s *Step) error {
	now, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i := range r.report.Proof {
		p := &r.report.Proof[i]
		p.After = digest(now[p.What])
		p.Same = p.After == p.Before
		switch {
		case !p.Same:
			errs = append(errs, fmt.Errorf("%s: not as before: %s", p.What, difference(p.was, now[p.What])))
		case p.Upgraded == p.Before:
			errs = append(errs, fmt.Errorf("%s: the upgrade changed nothing, so the comparison shows nothing",
				p.What))
		default:
			s.say("%s: changed by the upgrade, and now as before (SHA-256 %s)", p.What, short(p.After))
		}
	}
	r.report.Reverted = len(errs) == 0
	return errors.Join(errs...)
}

// difference names the first lines that only one side has.
func difference(before, after []string) string {
	only := func(a, b []string) string {
		for _, line := range a {
			if !slices.Contains(b, line) {
				return strconv.Quote(line)
			}
		}
		return "nothing"
	}
	return fmt.Sprintf("only before: %s; only after: %s", only(before, after), only(after, before))
}

// writePackages is what dpkg knows.
func (k *stack) writePackages(ctx context.Context, w io.Writer) error {
	all, err := k.host.Packages(ctx, "tyk-*")
	if err != nil {
		return err
	}
	for _, p := range all {
		_, _ = fmt.Fprintln(w, p.Name, p.Arch, p.Version, p.Want, p.Status, p.Reinst, p.Conffiles)
	}
	return nil
}

// writeFiles is every file of the components: name, mode, owner, content.
func (k *stack) writeFiles(ctx context.Context, w io.Writer) error {
	for _, dir := range []string{"opt", "etc/default", "lib/systemd"} {
		err := filepath.WalkDir(filepath.Join(k.root, dir), func(path string, d fs.DirEntry,
			err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			owner := info.Sys().(*syscall.Stat_t)
			var sum string
			if info.Mode().IsRegular() {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				sum = fmt.Sprintf("%x", sha256.Sum256(data))
			}
			_, _ = fmt.Fprintln(w, strings.TrimPrefix(path, k.root), info.Mode(), owner.Uid, owner.Gid, sum)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeMongo is every document and index.
func (d *stores) writeMongo(ctx context.Context, w io.Writer) error {
	names, err := d.db().ListCollectionNames(ctx, bson.D{})
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		_, _ = fmt.Fprintln(w, name)
		c := d.db().Collection(name)
		cursor, err := c.Find(ctx, bson.D{})
		if err != nil {
			return err
		}
		var docs []bson.Raw
		if err := cursor.All(ctx, &docs); err != nil {
			return err
		}
		if cursor, err = c.Indexes().List(ctx); err != nil {
			return err
		}
		var indexes []bson.Raw
		if err := cursor.All(ctx, &indexes); err != nil {
			return err
		}
		lines := make([]string, 0, len(docs)+len(indexes))
		for _, x := range append(docs, indexes...) {
			lines = append(lines, x.String())
		}
		slices.Sort(lines) // a restore keeps documents, not their order
		_, _ = fmt.Fprintln(w, strings.Join(lines, "\n"))
	}
	return nil
}

// writeRedis is every key with its value and whether it expires.
func (d *stores) writeRedis(ctx context.Context, w io.Writer) error {
	keys, err := d.redis.Keys(ctx, "*").Result()
	if err != nil {
		return err
	}
	slices.Sort(keys)
	for _, key := range keys {
		kind, err := d.redis.Type(ctx, key).Result()
		if err != nil {
			return err
		}
		ttl, err := d.redis.TTL(ctx, key).Result()
		if err != nil {
			return err
		}
		var value any
		switch kind {
		case "string":
			value, err = d.redis.Get(ctx, key).Result()
		case "hash":
			value, err = d.redis.HGetAll(ctx, key).Result() // fmt sorts maps
		case "list":
			value, err = d.redis.LRange(ctx, key, 0, -1).Result()
		case "zset":
			value, err = d.redis.ZRangeWithScores(ctx, key, 0, -1).Result()
		case "set":
			var members []string
			members, err = d.redis.SMembers(ctx, key).Result()
			slices.Sort(members)
			value = members
		default:
			err = fmt.Errorf("key %q has the unexpected type %s", key, kind)
		}
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(w, key, kind, ttl > 0, value)
	}
	return nil
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.mongodb.org/mongo-driver/bson"
)

// state is a part of the stack that must be as before after a revert. It is
// read by other means than those that bring it back.
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

// capture reads every state. set puts its digest into a proof; nil begins the
// proofs with what is now.
func (r *rehearsal) capture(ctx context.Context, proofs *[]Proof, set func(*Proof, string)) error {
	if r.o.fail == "" {
		return nil // nothing will be reverted
	}
	for _, st := range r.states() {
		h := sha256.New()
		if err := st.read(ctx, h); err != nil {
			return fmt.Errorf("read the state of %s: %w", st.name, err)
		}
		digest := hex.EncodeToString(h.Sum(nil))
		if set == nil {
			*proofs = append(*proofs, Proof{What: st.name, Before: digest})
			continue
		}
		i := slices.IndexFunc(*proofs, func(p Proof) bool { return p.What == st.name })
		set(&(*proofs)[i], digest)
	}
	return nil
}

// prove compares.
func (r *rehearsal) prove(ctx context.Context, s *Step) error {
	if err := r.capture(ctx, &r.report.Proof, func(p *Proof, digest string) { p.After = digest; p.Same = digest == p.Before }); err != nil {
		return err
	}
	r.report.Reverted = true
	var errs []error
	for _, p := range r.report.Proof {
		switch {
		case !p.Same:
			errs = append(errs, fmt.Errorf("%s: not as before", p.What))
		case p.Upgraded == p.Before:
			errs = append(errs, fmt.Errorf("%s: the upgrade changed nothing, so that this proves nothing", p.What))
		default:
			s.say("%s: changed by the upgrade, and now as before", p.What)
		}
	}
	if len(errs) > 0 {
		r.report.Reverted = false
	}
	return errors.Join(errs...)
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
		err := filepath.WalkDir(filepath.Join(k.root, dir), func(path string, d fs.DirEntry, err error) error {
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
			_, _ = fmt.Fprintln(w, strings.TrimPrefix(path, k.root), info.Mode(), owner.Uid, owner.Gid)
			if !info.Mode().IsRegular() {
				return nil
			}
			data, err := os.ReadFile(path)
			_, _ = fmt.Fprintf(w, "%x\n", sha256.Sum256(data))
			return err
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

package hostfiles

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// walk finds the files that match patterns on a host. It checks every directory of a path, so that
// it sees links in the middle. All patterns advance together, so that a remote host needs few calls
// for any number of paths.
type walk struct {
	h     host
	known map[string]entry // by path; typ 0: it does not exist
	all   map[string]entry // the found entries, without the directories above them

	reached  map[string]bool // patterns with a match
	visited  map[string]bool
	warnings []string
	inside   *matcher // the requested paths; links into them are always followed
}

// cursor is a pattern in progress. Links in its resolved beginning are gone.
type cursor struct {
	pattern string
	origin  string // the caller's pattern
}

// walkLinks finds the entries that match patterns, everything below matched directories, and the
// targets of links.
func walkLinks(ctx context.Context, h host, patterns []string) (map[string]entry, *walk, error) {
	w := &walk{h: h, known: map[string]entry{}, all: map[string]entry{}, reached: map[string]bool{},
		visited: map[string]bool{}, inside: newMatcher(patterns)}
	var todo []cursor
	for _, p := range patterns {
		todo = append(todo, cursor{p, p})
	}
	for round := 0; len(todo) > 0; round++ {
		if round == maxRounds {
			return nil, nil, fmt.Errorf("links lead to links: %.200s", todo[0].pattern)
		}
		var err error
		if todo, err = w.advance(ctx, todo); err != nil {
			return nil, nil, err
		}
	}
	return w.all, w, nil
}

// maxRounds is the kernel's limit of links in a path, and some for wildcards.
const maxRounds = 64

func (w *walk) advance(ctx context.Context, todo []cursor) (next []cursor, err error) {
	if err := w.look(ctx, todo); err != nil {
		return nil, err
	}
	var wild []cursor
	var dirs, trees []string
	for _, c := range todo {
		if w.visited[c.pattern+"\x00"+c.origin] {
			continue
		}
		w.visited[c.pattern+"\x00"+c.origin] = true
		base, rest := splitWild(c.pattern)
		at, ok, more := w.along(base, rest, c)
		next = append(next, more...)
		switch e := w.known[at]; {
		case !ok:
		case rest != "" && (e.typ == 'd' || at == "/"):
			wild, dirs = append(wild, c), append(dirs, at)
		case rest != "":
		default:
			w.reached[c.origin] = true
			w.add(e, &next, c.origin)
			if e.typ == 'd' {
				trees = append(trees, at)
			}
		}
	}
	if len(dirs) > 0 {
		if err := w.expand(ctx, wild, dirs, &next); err != nil {
			return nil, err
		}
	}
	if len(trees) > 0 {
		found, err := w.h.tree(ctx, trees)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			w.known[e.path] = e
			w.add(e, &next, "")
		}
	}
	return next, nil
}

// look reads all directories of the literal parts from the host.
func (w *walk) look(ctx context.Context, todo []cursor) error {
	ask := map[string]bool{}
	for _, c := range todo {
		base, _ := splitWild(c.pattern)
		for p := base; p != "/"; p = path.Dir(p) {
			if _, ok := w.known[p]; !ok {
				ask[p] = true
			}
		}
	}
	if len(ask) == 0 {
		return nil
	}
	found, err := w.h.lstat(ctx, slices.Sorted(maps.Keys(ask)))
	if err != nil {
		return err
	}
	for p := range ask {
		w.known[p] = entry{path: p}
	}
	for _, e := range found {
		w.known[e.path] = e
	}
	return nil
}

// along follows base from the root. At a link in the middle it stops and returns
// the rest of the pattern behind it.
func (w *walk) along(base, rest string, c cursor) (at string, ok bool, more []cursor) {
	for i := 1; i <= len(base); i++ {
		if i < len(base) && base[i] != '/' {
			continue
		}
		at = base[:i]
		if at == "/" || at == "" {
			continue
		}
		e := w.known[at]
		last := i == len(base)
		switch {
		case e.typ == 0 || (!last && e.typ != 'd' && e.typ != 'l'):
			return at, false, nil
		case e.typ == 'l' && (!last || rest != ""):
			if !w.mayFollow(e) {
				return at, false, nil
			}
			if !mergedUsr[at] {
				w.all[at] = e
			}
			p := strings.TrimSuffix(escapePattern(e.target()), "/") + escapePattern(base[i:])
			if rest != "" {
				p += "/" + rest
			}
			return at, false, []cursor{{p, c.origin}}
		}
	}
	return base, true, nil
}

// mergedUsr are the links of every Debian since 12. They do not belong to Tyk.
var mergedUsr = map[string]bool{"/lib": true, "/lib64": true, "/bin": true, "/sbin": true}

// expand matches the children of dirs with the first wildcard of each pattern.
func (w *walk) expand(ctx context.Context, wild []cursor, dirs []string, next *[]cursor) error {
	children, err := w.h.children(ctx, slices.Compact(slices.Sorted(slices.Values(dirs))))
	if err != nil {
		return err
	}
	for _, e := range children {
		w.known[e.path] = e
	}
	for _, c := range wild {
		base, rest := splitWild(c.pattern)
		first, after, _ := strings.Cut(rest, "/")
		for _, e := range children {
			if path.Dir(e.path) != base {
				continue
			}
			if hit, _ := path.Match(first, path.Base(e.path)); !hit {
				continue
			}
			p := escapePattern(e.path)
			if after != "" {
				p += "/" + after
			}
			*next = append(*next, cursor{p, c.origin})
		}
	}
	return nil
}

// add records an entry, and continues behind a link.
func (w *walk) add(e entry, next *[]cursor, origin string) {
	if _, dup := w.all[e.path]; dup {
		return
	}
	w.all[e.path] = e
	switch e.typ {
	case 'f', 'd':
	case 'l':
		switch target := e.target(); {
		case target == "/":
			w.warn("%s is a link to /, which was left out", e.path)
		case strings.HasPrefix(target, "/dev/") || strings.HasPrefix(target, "/proc/") ||
			strings.HasPrefix(target, "/sys/"):
		case !utf8.ValidString(e.link): // find refuses it
		case w.mayFollow(e):
			*next = append(*next, cursor{escapePattern(target), origin})
		}
	default:
		w.warn("%s is neither a file, a directory nor a link and was left out", e.path)
	}
}

// mayFollow reports whether to follow a link: one into the requested paths, or one that only root
// or this user can have made. Any other owner could have secrets of the host archived, and old ones
// restored.
func (w *walk) mayFollow(e entry) bool {
	if w.inside.match(e.target()) {
		return true
	}
	if !w.trusted(e.path) {
		w.warn("%s is a link that user %d controls; its target %s was left out: name it in Paths", e.path,
			e.meta.UID, e.target())
		return false
	}
	return true
}

// trusted reports whether only root and this user can change the link at p.
func (w *walk) trusted(p string) bool {
	if !ownUID(w.known[p].meta.UID) {
		return false
	}
	for p = path.Dir(p); p != "/"; p = path.Dir(p) {
		if e, ok := w.known[p]; ok && e.typ == 'd' && !safeDir(e.meta) {
			return false
		}
	}
	return true
}

func (w *walk) warn(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if !slices.Contains(w.warnings, s) {
		w.warnings = append(w.warnings, s)
	}
}

// follow returns where p leads among the entries of all, with links resolved.
func follow(all map[string]entry, p string) string {
	for range maxRounds {
		moved := false
		for i := 1; i <= len(p) && !moved; i++ {
			if i < len(p) && p[i] != '/' {
				continue
			}
			if e, ok := all[p[:i]]; ok && e.typ == 'l' {
				p, moved = path.Join(e.target(), p[i:]), true
			}
		}
		if !moved {
			return p
		}
	}
	return p
}

// splitWild splits a pattern before its first element with a wildcard. base is literal and without
// escapes. Without a wildcard, rest is empty.
func splitWild(p string) (base, rest string) {
	if wild, plain := isPattern(p); !wild {
		return plain, ""
	}
	parts := strings.Split(strings.TrimPrefix(p, "/"), "/")
	base = ""
	for i, part := range parts {
		wild, plain := isPattern(part)
		if wild {
			if base == "" {
				base = "/"
			}
			return base, strings.Join(parts[i:], "/")
		}
		base += "/" + plain
	}
	return base, ""
}

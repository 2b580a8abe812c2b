package hostfiles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
)

// tykPrograms are the programs whose configuration names databases, with their files and the
// prefixes of the variables that override them.
var tykPrograms = []struct {
	by, file, env string
	needs         func(c config) []backup.Need
}{
	{"dashboard", "/opt/tyk-dashboard/tyk_analytics.conf", "TYK_DB_", dashboardNeeds},
	{"gateway", "/opt/tyk-gateway/tyk.conf", "TYK_GW_", gatewayNeeds},
	{"pump", "/opt/tyk-pump/pump.conf", "TYK_PMP_", pumpNeeds},
	{"mdcb", "/opt/tyk-sink/tyk_sink.conf", "TYK_MDCB_", mdcbNeeds},
}

// envFiles contain variables of the services. Later files win.
var envFiles = []string{
	"/lib/systemd/system/tyk-*.service", "/etc/systemd/system/tyk-*.service",
	"/etc/systemd/system/tyk-*.service.d/*.conf", "/etc/default/tyk-*",
}

// maxConfig bounds what is read into memory of one configuration file.
const maxConfig = 16 << 20

// Databases returns the databases that Tyk's programs use, according to their configuration files
// and the variables of their services. The root of fsys is that of the host. The result contains no
// secret.
//
// A program counts if its configuration file exists. The rules are those of dashboard 5.x, gateway
// 5.x and pump 1.x. By default the dashboard uses MongoDB and Redis, the gateway uses Redis, and
// the pump reads from Redis. A file that is not JSON is an error. The result then has the databases
// of the other files.
func Databases(fsys fs.FS) ([]backup.Need, error) {
	files := map[string][]byte{}
	var errs []error
	for _, p := range configPatterns() {
		names, err := fs.Glob(fsys, strings.TrimPrefix(p, "/"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			data, err := readSmall(fsys, name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			files["/"+name] = data
		}
	}
	needs, err := databases(files)
	return needs, errors.Join(append(errs, err)...)
}

func readSmall(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxConfig))
}

func configPatterns() []string {
	out := slices.Clone(envFiles)
	for _, p := range tykPrograms {
		out = append(out, p.file)
	}
	return out
}

// Needs returns the databases that Tyk's programs on the host of f use, as [Databases] does. It
// ignores Paths and IfPresent.
func (f *Source) Needs(ctx context.Context) ([]backup.Need, error) {
	h, err := (&Source{FS: f.FS, Runner: f.Runner}).host()
	if err != nil {
		return nil, err
	}
	all, _, err := walkLinks(ctx, h, configPatterns())
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name].typ == 'f' {
			entries = append(entries, all[name])
		}
	}
	if len(entries) == 0 {
		return nil, nil
	}
	files := map[string][]byte{}
	err = h.read(ctx, entries, func() error { clear(files); return nil }, func(e entry, _ backup.Meta,
		r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, maxConfig))
		files[e.path] = data
		return err
	})
	if err != nil {
		return nil, err
	}
	return databases(resolved(all, files))
}

// resolved returns files behind links under the names by which programs open them.
func resolved(all map[string]entry, files map[string][]byte) map[string][]byte {
	out := maps.Clone(files)
	for _, p := range configPatterns() {
		if wild, plain := isPattern(p); !wild {
			if data, ok := files[follow(all, plain)]; ok {
				out[plain] = data
			}
		}
	}
	for name, e := range all {
		if data, ok := files[follow(all, name)]; ok && e.typ == 'l' {
			out[name] = data
		}
	}
	return out
}

// databases is Databases for files that have been read, by absolute path.
func databases(files map[string][]byte) ([]backup.Need, error) {
	env := map[string]string{}
	for _, p := range envFiles {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if hit, _ := path.Match(p, name); hit {
				readEnv(files[name], strings.HasPrefix(p, "/etc/default"), env)
			}
		}
	}
	var out []backup.Need
	var errs []error
	for _, p := range tykPrograms {
		data, ok := files[p.file]
		if !ok {
			continue
		}
		c := config{by: p.by, file: p.file, prefix: p.env, env: env}
		if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &c.doc); err != nil {
			errs = append(errs, &backup.Error{Op: "read", Object: p.file,
				Err:  errors.New("it is not a JSON object"),
				Next: "fix the file; " + p.by + " cannot start with it either"})
			continue
		}
		for _, n := range p.needs(c) {
			if !slices.ContainsFunc(out, func(o backup.Need) bool {
				return o.Kind == n.Kind &&
					o.By == n.By
			}) {
				out = append(out, n)
			}
		}
	}
	return out, errors.Join(errs...)
}

// readEnv reads NAME=value lines, or the Environment= lines of a unit.
func readEnv(data []byte, plain bool, env map[string]string) {
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		words := []string{strings.TrimSpace(strings.TrimPrefix(line, "export "))}
		if !plain {
			rest, ok := strings.CutPrefix(line, "Environment=")
			if !ok {
				continue
			}
			words = splitQuoted(rest)
		}
		for _, w := range words {
			if name, value, ok := strings.Cut(w, "="); ok && strings.HasPrefix(name, "TYK_") {
				env[strings.ToUpper(name)] = strings.Trim(strings.TrimSpace(value), `"'`)
			}
		}
	}
}

// splitQuoted splits words at blanks outside of quotes, and removes the quotes.
func splitQuoted(s string) []string {
	var out []string
	var b strings.Builder
	var quote rune
	for _, r := range s + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case quote == 0 && (r == ' ' || r == '\t'):
			if b.Len() > 0 {
				out = append(out, b.String())
				b.Reset()
			}
		default:
			b.WriteRune(r)
		}
	}
	return out
}

// config has the file and the variables of one program.
type config struct {
	by, file, prefix string
	doc              map[string]any
	env              map[string]string
}

// text returns the setting at a path such as "storage.main.type", and where it is set. Without a
// setting it returns "". A variable wins over the file.
func (c config) text(keys string) (value, from string) {
	name := c.prefix + strings.ToUpper(strings.NewReplacer(".", "_", "_", "").Replace(keys))
	if v := c.env[name]; v != "" {
		return v, name
	}
	var at any = c.doc
	for _, k := range strings.Split(keys, ".") {
		m, _ := at.(map[string]any)
		at = m[k]
	}
	s, _ := at.(string)
	return s, c.file + ": " + keys
}

func (c config) need(kind, from string) backup.Need {
	return backup.Need{Kind: kindOf(kind), By: c.by, From: from}
}

// kindOf maps a configuration's name of a database to the kind of a component.
func kindOf(s string) string {
	switch s = strings.ToLower(s); {
	case s == "postgresql" || s == "pgx":
		return "postgres"
	case strings.HasPrefix(s, "mongo") || s == "documentdb":
		return "mongo"
	}
	return s
}

func (c config) redis(keys string) backup.Need {
	_, from := c.text(keys)
	return c.need("redis", from)
}

func dashboardNeeds(c config) []backup.Need {
	out := []backup.Need{c.redis("redis_host")}
	main, from := c.text("storage.main.type")
	if main == "" {
		main = "mongo" // the default of every release
		if _, mongo := c.text("mongo_url"); mongo != "" {
			from = mongo
		}
	}
	out = append(out, c.need(main, from))
	for _, part := range []string{"analytics", "logs", "uptime"} {
		if kind, from := c.text("storage." + part + ".type"); kind != "" {
			out = append(out, c.need(kind, from))
		}
	}
	if kind, from := c.text("analytics_storage_type"); kind != "" && kind != "redis" {
		out = append(out, c.need(kind, from))
	}
	return out
}

func gatewayNeeds(c config) []backup.Need {
	kind, from := c.text("storage.type")
	if kind == "" {
		kind = "redis"
	}
	return []backup.Need{c.need(kind, from)}
}

// mdcbNeeds returns the databases of a sink, which uses the dashboard's database and Redis.
func mdcbNeeds(c config) []backup.Need {
	out := []backup.Need{c.redis("storage.type")}
	kind, from := c.text("analytics.type")
	if kind == "" {
		kind = "mongo"
	}
	return append(out, c.need(kind, from))
}

func pumpNeeds(c config) []backup.Need {
	out := []backup.Need{c.redis("analytics_storage_type")}
	pumps, _ := c.doc["pumps"].(map[string]any)
	names := map[string]bool{}
	for name := range pumps {
		names[name] = true
	}
	for name := range c.env { // TYK_PMP_PUMPS_<NAME>_TYPE
		if rest, ok := strings.CutPrefix(name, c.prefix+"PUMPS_"); ok {
			if pump, ok := strings.CutSuffix(rest, "_TYPE"); ok && !strings.HasSuffix(pump, "_META") {
				names[strings.ToLower(pump)] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		typ, from := c.text("pumps." + name + ".type")
		if typ == "" {
			typ = name
		}
		if kind := c.pumpKind(strings.ToLower(typ), "pumps."+name+".meta.type"); kind != "" {
			out = append(out, c.need(kind, from))
		}
	}
	uptime, from := c.text("uptime_pump_config.uptime_type")
	if uptime == "" {
		if url, at := c.text("uptime_pump_config.mongo_url"); url != "" {
			uptime, from = "mongo", at
		}
	}
	if kind := c.pumpKind(strings.ToLower(uptime), "uptime_pump_config.type"); kind != "" {
		out = append(out, c.need(kind, from))
	}
	return out
}

// pumpKind returns the database of a pump of the given type, or "" if it writes elsewhere. SQL
// pumps name it at key.
func (c config) pumpKind(typ, key string) string {
	switch {
	case strings.HasPrefix(typ, "mongo"):
		return "mongo"
	case strings.HasPrefix(typ, "sql") || strings.HasPrefix(typ, "graph-sql"):
		if kind, _ := c.text(key); kind != "" {
			return kind
		}
		return "sqlite" // the pump's default
	}
	return ""
}

package health

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Runner runs a command on a host. debpkg.Local and debpkg.SSH return one.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// ErrLogUnreadable means that a gateway's log cannot be read or has no line of the gateway.
// The result is then Unknown.
var ErrLogUnreadable = errors.New("log gives no answer")

// PluginFault is a gateway's log entry about a plugin that it did not load.
type PluginFault struct {
	Kind   FaultKind `json:"kind"`
	Symbol string    `json:"symbol,omitempty"` // the plugin's function
	Path   string    `json:"path,omitempty"`   // of the .so
	Bundle string    `json:"bundle,omitempty"`
	API    string    `json:"api,omitempty"` // its ID
	Cause  string    `json:"cause"`
	Time   string    `json:"time,omitempty"` // as the log has it
}

// FaultKind is a token for the kind of a [PluginFault].
type FaultKind string

// The kinds of faults.
const (
	PluginNotLoaded     FaultKind = "plugin_not_loaded"
	PluginNotFound      FaultKind = "plugin_not_found"
	PluginAlreadyLoaded FaultKind = "plugin_already_loaded" // only a restart of the gateway helps
	BundleNotFetched    FaultKind = "bundle_not_fetched"
	// before 5.0.12 and from 5.1.0 to 5.3.0 the gateway uses the bundle nevertheless
	BundleNotVerified FaultKind = "bundle_not_verified"
	BundleNotLoaded   FaultKind = "bundle_not_loaded"
)

func (f PluginFault) String() string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(string(f.Kind), "_", " "))
	for _, part := range [][2]string{{"symbol", f.Symbol}, {"path", f.Path}, {"bundle", f.Bundle},
		{"API", f.API}} {
		if part[1] != "" {
			fmt.Fprintf(&b, ", %s %s", part[0], part[1])
		}
	}
	if f.Cause != "" {
		b.WriteString(": " + f.Cause)
	}
	return b.String()
}

// PluginLog is the result of [ReadPluginLog].
type PluginLog struct {
	Entries int           // log entries of a gateway; 0: the log shows nothing
	Faults  []PluginFault // each once, in the order of the log
}

const (
	maxLogLine = 64 << 10
	maxFaults  = 100
)

// ReadPluginLog reads a gateway's log as text (msg= up to 5.13, message= from 5.14), legacy,
// JSON, or the coloured form of a terminal. It skips lines of other programs. It knows the
// messages in the sources of 3.0.0 to 5.14.0. It keeps the first 100 different faults. After a
// read error it returns what it has read so far.
//
// A fault in the log may be over: the gateway fetches a missing bundle at its next reload. It
// refuses a plugin that is already loaded until its restart.
func ReadPluginLog(r io.Reader) (PluginLog, error) {
	var l PluginLog
	in := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := in.ReadSlice('\n')
		for long := err; errors.Is(long, bufio.ErrBufferFull); {
			line = slices.Clone(line) // its beginning is enough
			_, long = in.ReadSlice('\n')
			err = long
		}
		if e, ok := parseEntry(line); ok {
			l.Entries++
			if f, bad := e.fault(); bad && len(l.Faults) < maxFaults && !slices.ContainsFunc(l.Faults,
				f.same) {
				l.Faults = append(l.Faults, f)
			}
		}
		if err == io.EOF {
			return l, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return l, err
		}
	}
}

func (f PluginFault) same(g PluginFault) bool {
	f.Time, g.Time = "", ""
	return f == g
}

// entry is one line of a gateway's log with cleaned texts.
type entry map[string]string

var (
	ansi = lazyregexp.New(`\x1b\[[0-9;]*m`)
	// One key=value of logrus. The value is bare or quoted as in Go.
	pair = lazyregexp.New(`(?:^|\s)([A-Za-z_][\w.]*)=("(?:[^"\\]|\\.)*"|[^\s"]*)`)
	// [Nov 29 00:33:58] ERROR main: message, as on a terminal.
	terminal = lazyregexp.New(
		`\[[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d\]\s+(DEBUG|INFO|WARN|WARNING|ERROR|FATAL|PANIC)\s+(.*)`)
	fields = lazyregexp.New(`\s+[A-Za-z_][\w.]*=`)
)

func parseEntry(line []byte) (entry, bool) {
	line = bytes.TrimSpace(ansi.ReplaceAll(line, nil))
	e := entry{}
	if i := bytes.IndexByte(line, '{'); i >= 0 && bytes.HasSuffix(line, []byte("}")) {
		var all map[string]any
		if json.Unmarshal(line[i:], &all) == nil {
			for k, v := range all {
				e[k] = clean(fmt.Sprint(v))
			}
			return e.normal()
		}
	}
	if m := terminal.FindSubmatchIndex(line); m != nil {
		e["level"] = strings.ToLower(string(line[m[2]:m[3]]))
		line = line[m[4]:m[5]]
		text := line
		if at := fields.FindIndex(line); at != nil {
			text = line[:at[0]]
		}
		e["msg"] = clean(string(text))
	}
	for _, m := range pair.FindAllSubmatch(line, -1) {
		value := string(m[2])
		if s, err := strconv.Unquote(value); err == nil {
			value = s
		}
		e[string(m[1])] = clean(value)
	}
	return e.normal()
}

// normal stores the message as "msg" and reports whether the entry is a gateway's.
func (e entry) normal() (entry, bool) {
	if e["message"] != "" {
		e["msg"] = e["message"]
	}
	return e, e["msg"] != "" && e["level"] != ""
}

// faultMessages holds the beginnings of the messages, the more specific ones first.
var faultMessages = []struct {
	text string
	kind FaultKind
	name bool // the rest of the message is the bundle's name
}{
	{"Could not load Go-plugin. File was not found", PluginNotFound, false},
	{"Could not load Go-plugin", PluginNotLoaded, false}, // also "… for analytics"
	{"Recovered from panic while loading Go-plugin", PluginNotLoaded, false},
	{"plugin file not found", PluginNotFound, false},
	{"Couldn't fetch bundle", BundleNotFetched, false},
	{"No bundle base URL set, skipping bundle", BundleNotFetched, false},
	{"Bundle downloader is disabled", BundleNotFetched, false},
	{"----> Bundle verification failed: ", BundleNotVerified, true},
	{"----> Couldn't unmarshal the manifest file for bundle: ", BundleNotLoaded, true},
	{"----> Couldn't load bundle: ", BundleNotLoaded, true},
	{"Couldn't load bundle", BundleNotLoaded, false},
	{"Couldn't save bundle", BundleNotLoaded, false},
	{"Couldn't create bundle", BundleNotLoaded, false},
	{"Couldn't merge bundle", BundleNotLoaded, false},
}

func (e entry) fault() (PluginFault, bool) {
	text := e["msg"]
	// A terminal's line has the prefix before the message.
	for _, m := range faultMessages {
		at := strings.Index(text, m.text)
		if at < 0 || at > len("coprocess: ") {
			continue
		}
		rest := strings.TrimPrefix(strings.TrimSpace(text[at+len(m.text):]), ": ")
		f := PluginFault{Kind: m.kind, Symbol: e["mwSymbolName"], Path: e["mwPath"], API: e["api_id"],
			Cause: e["error"], Time: e["time"]}
		if m.name {
			f.Bundle, rest, _ = strings.Cut(rest, " ")
		}
		if f.Cause == "" {
			f.Cause = strings.TrimSpace(strings.TrimPrefix(rest, ":"))
		}
		if f.Cause == "" && !m.name {
			f.Cause = text[at:]
		}
		if strings.Contains(f.Cause, "plugin already loaded") {
			f.Kind = PluginAlreadyLoaded
		}
		return f, true
	}
	return PluginFault{}, false
}

// LogReader writes a gateway's log since the start of its process to w.
type LogReader func(ctx context.Context, w io.Writer) error

// Journal reads the messages of a systemd unit since its last start. It needs systemd 232 or
// later. The user must be root or in the group systemd-journal or adm.
func Journal(run Runner, unit string) LogReader {
	return func(ctx context.Context, w io.Writer) error {
		var id bytes.Buffer
		if err := logged(run, ctx, []string{"systemctl", "show", "--property=InvocationID", "--value",
			"--", unit}, &id); err != nil {
			return err
		}
		invocation := strings.TrimSpace(id.String())
		if !isInvocation.MatchString(invocation) {
			return fmt.Errorf("read journal of %s: the unit has not been started", clean(unit))
		}
		return logged(run, ctx, []string{"journalctl", "--no-pager", "--quiet", "--output=cat",
			"_SYSTEMD_INVOCATION_ID=" + invocation}, w)
	}
}

var isInvocation = lazyregexp.New(`^[0-9a-f]{32}$`)

// LogFile reads a log file from the offset from, in bytes. Take from with [LogSize] before the
// gateway starts. It finds nothing in a file that was rotated since.
func LogFile(run Runner, path string, from int64) LogReader {
	return func(ctx context.Context, w io.Writer) error {
		return logged(run, ctx, []string{"tail", "-c", "+" + strconv.FormatInt(from+1, 10), "--", path},
			w)
	}
}

// LogSize returns the size of a log file in bytes.
func LogSize(ctx context.Context, run Runner, path string) (int64, error) {
	var out bytes.Buffer
	if err := logged(run, ctx, []string{"stat", "-L", "-c", "%s", "--", path}, &out); err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
}

func logged(run Runner, ctx context.Context, argv []string, w io.Writer) error {
	var said tail
	if err := run(ctx, argv, nil, w, &said); err != nil {
		return fmt.Errorf("run %s: %w%s", argv[0], err, after(": ", clean(string(said))))
	}
	return nil
}

// tail keeps the beginning of a command's stderr.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p[:min(len(p), maxText-min(maxText, len(*t)))]...)
	return len(p), nil
}

// PluginsLoaded is a [Check] of a gateway's own log. It fails if the gateway did not load a
// plugin or its bundle, and names plugin, path and cause. If the log cannot be read or has no
// entry of the gateway, the result is Unknown and the error wraps [ErrLogUnreadable]. It
// complements [Plugin]: a log without faults does not show that an API uses a plugin.
func PluginsLoaded(read LogReader) Check {
	return Check{Name: "plugins", Run: func(ctx context.Context) (Finding, error) {
		in, out := io.Pipe()
		go func() { _ = out.CloseWithError(read(ctx, out)) }()
		l, err := ReadPluginLog(in)
		_ = in.CloseWithError(err)
		switch {
		case len(l.Faults) > 0:
			var texts []string
			for _, f := range l.Faults {
				texts = append(texts, f.String())
			}
			const most = 5
			if n := len(texts); n > most {
				texts = append(texts[:most], fmt.Sprintf("and %d more", n-most))
			}
			return Finding{}, fmt.Errorf("%w: %s", ErrUnhealthy, strings.Join(texts, "; "))
		case err != nil:
			return Finding{}, fmt.Errorf("%w: %w", ErrLogUnreadable, err)
		case l.Entries == 0:
			return Finding{}, fmt.Errorf("%w: no entry of a gateway since its start",
				ErrLogUnreadable)
		}
		return Finding{Output: fmt.Sprintf("%d log entries, no plugin failed to load", l.Entries)}, nil
	}}
}

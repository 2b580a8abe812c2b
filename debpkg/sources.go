package debpkg

import (
	"context"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/redact"
)

// Source is one entry of apt's sources: a line of a .list file or a stanza of
// a .sources file.
type Source struct {
	File       string
	Line       int // where the entry starts
	Types      []string
	URIs       []string // credentials removed
	Suites     []string
	Components []string `json:",omitempty"`
	// key files or fingerprints; "inline" for a key in the file itself
	SignedBy string   `json:",omitempty"`
	Trusted  bool     `json:",omitempty"` // [trusted=yes]: signatures are not checked
	Disabled bool     `json:",omitempty"`
	Serves   []string `json:",omitempty"` // the Tyk packages in its package lists
}

// Tyk reports whether the entry is for Tyk packages. It checks what the source serves, the file
// name that packagecloud's script chooses (tyk_tyk-gateway.list), and the address.
func (s Source) Tyk() bool {
	if len(s.Serves) > 0 || strings.Contains(s.File, "/tyk_tyk-") {
		return true
	}
	for _, u := range s.URIs {
		if strings.Contains(u, "packagecloud.io/tyk/") {
			return true
		}
	}
	return false
}

// bare returns an address as apt prints it, without credentials.
func bare(uri string) string {
	return strings.TrimRight(userinfo.ReplaceAllString(uri, "://"), "/")
}

var userinfo = lazyregexp.New(`://[^/\s]+@`)

// offersScript prints the files of sources that apt reads, by their names
// (apt_preferences(5), "the files have either no or the extension"), and then
// what apt-cache madison says of the packages "$@".
const offersScript = `dir=$1; shift
for f in "$dir/sources.list" "$dir/sources.list.d/"*.list "$dir/sources.list.d/"*.sources; do
	if [ ! -f "$f" ]; then continue; fi
	case ${f##*/} in sources.list) ;; *[!A-Za-z0-9._-]*) continue ;; esac
	printf '\034%s\n' "$f"; cat -- "$f" || exit 2; echo
done
printf '\035'
if [ $# -gt 0 ]; then apt-cache madison -- "$@"; fi`

// Sources returns the entries in the files that apt reads. It leaves out files that apt ignores
// because of their name.
func (h *Host) Sources(ctx context.Context) ([]Source, error) {
	list, _, err := h.offers(ctx, nil)
	return list, err
}

func parseSources(text string) []Source {
	var list []Source
	for _, part := range strings.Split(text, "\x1c") {
		file, text, ok := strings.Cut(part, "\n")
		switch {
		case !ok:
		case strings.HasSuffix(file, ".sources"):
			list = append(list, parseDeb822(file, text)...)
		default:
			list = append(list, parseList(file, text)...)
		}
	}
	return list
}

// parseList reads the one-line format of sources.list(5). Lines that apt would
// refuse are left out: apt itself reports them.
func parseList(file, text string) []Source {
	var list []Source
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(comment(line))
		kind, rest, ok := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		if !ok || kind != "deb" && kind != "deb-src" {
			continue
		}
		s := Source{File: file, Line: n, Types: []string{kind}}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			for _, o := range strings.Fields(options) {
				key, value, _ := strings.Cut(o, "=")
				s.option(key, value)
			}
			rest = after
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			continue
		}
		s.URIs, s.Suites = []string{redact.Text(words[0])}, words[1:2]
		if len(words) > 2 {
			s.Components = words[2:]
		}
		list = append(list, s)
	}
	return list
}

// comment cuts a comment off. Within the brackets of the options a # is text
// (apt 2.6).
func comment(line string) string {
	from := 0
	if i, j := strings.IndexByte(line, '['), strings.IndexByte(line, ']'); i >= 0 && j > i &&
		!strings.Contains(line[:i], "#") {
		from = j
	}
	if i := strings.IndexByte(line[from:], '#'); i >= 0 {
		return line[:from+i]
	}
	return line
}

func (s *Source) option(key, value string) {
	switch strings.ToLower(strings.TrimRight(key, "+-")) {
	case "signed-by":
		s.SignedBy = value
	case "trusted":
		s.Trusted = yes(value)
	}
}

func yes(s string) bool {
	switch strings.ToLower(s) {
	case "yes", "true", "with", "on", "enable", "1":
		return true
	}
	return false
}

// parseDeb822 reads the stanzas of sources.list(5).
func parseDeb822(file, text string) []Source {
	var list []Source
	for _, st := range stanzas(text) {
		s := Source{File: file, Line: st.line, Types: strings.Fields(st.fields["types"]),
			Suites:     strings.Fields(st.fields["suites"]),
			Components: strings.Fields(st.fields["components"])}
		for _, u := range strings.Fields(st.fields["uris"]) {
			s.URIs = append(s.URIs, redact.Text(u))
		}
		if len(s.Types) == 0 || len(s.URIs) == 0 {
			continue
		}
		key := strings.TrimSpace(st.fields["signed-by"])
		if strings.Contains(key, "BEGIN PGP PUBLIC KEY") { // apt 2.3.10 and newer
			key = "inline"
		}
		s.SignedBy = strings.Join(strings.Fields(key), " ")
		s.Trusted = yes(st.fields["trusted"])
		if e, ok := st.fields["enabled"]; ok {
			s.Disabled = !yes(strings.TrimSpace(e))
		}
		list = append(list, s)
	}
	return list
}

type stanza struct {
	line   int
	fields map[string]string // keys in lower case; continuation lines joined with newlines
}

// stanzas reads RFC 822 style paragraphs, as in Packages, status and .sources.
func stanzas(text string) []stanza {
	var list []stanza
	var cur stanza
	var key string
	flush := func() {
		if len(cur.fields) > 0 {
			list = append(list, cur)
		}
		cur, key = stanza{}, ""
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			if key != "" {
				cur.fields[key] += "\n" + strings.TrimSpace(line)
			}
		default:
			k, v, ok := strings.Cut(line, ":")
			if !ok {
				key = ""
				continue
			}
			if cur.fields == nil {
				cur = stanza{line: n, fields: map[string]string{}}
			}
			key = strings.ToLower(strings.TrimSpace(k))
			cur.fields[key] = strings.TrimSpace(v)
		}
	}
	flush()
	return list
}

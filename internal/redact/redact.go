// Package redact takes credentials out of text that people see: errors, logs,
// lines of output. All packages use it. It knows URLs and nothing about any program.
package redact

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Texts in place of a secret: in a URL, and elsewhere.
const (
	Hidden   = "xxxxx"
	Redacted = "[redacted]"
)

// Text returns s without the passwords of URLs ("https://me:secret@host") and
// without the values of query parameters whose names speak of a secret
// ("?access_token=…"). A URL need not parse, and a password may hold any
// character except white space. In doubt more is hidden than needed. An http or
// https URL loses the user too: "https://TOKEN@host", "https://TOKEN:@host" and
// "https://TOKEN:x-oauth-basic@host" are how tokens are written.
func Text(s string) string {
	var b strings.Builder
	for {
		at := strings.Index(s, "://")
		if at < 0 {
			break
		}
		rest := s[at+3:]
		token := rest[:endOfToken(rest)]
		scheme := schemeOf(s[:at])
		b.WriteString(s[:at+3])
		// The text after the user information may hold another URL's, which the
		// last "@" of the token has covered.
		end := userinfo(token)
		if end >= 0 {
			b.WriteString(hide(token[:end], scheme))
			b.WriteString(token[end:])
		} else {
			b.WriteString(token)
		}
		s = rest[len(token):]
	}
	b.WriteString(s)
	s = b.String()
	if !strings.ContainsAny(s, "?&;#") { // most lines; matching costs a hundred times more
		return s
	}
	return secretValue.ReplaceAllString(s, "${1}"+Hidden)
}

// HasPassword says whether a URL carries a password or a secret query
// parameter, so that it must not become an argument of a program.
func HasPassword(url string) bool {
	if secretValue.MatchString(url) {
		return true
	}
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return false
	}
	end := userinfo(rest)
	return end >= 0 && strings.Contains(rest[:end], ":")
}

// URL returns u without user, password, query values and fragment.
func URL(u *url.URL) string {
	s := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.RawQuery != "" {
		s.RawQuery = "…"
	}
	return s.String()
}

// Secrets returns s without the given secrets: as they are, and as they look in a URL,
// a JSON string and a Go string.
func Secrets(s string, secrets ...string) string {
	for _, secret := range secrets {
		if secret == "" || s == "" {
			continue
		}
		forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret),
			url.User(secret).String()}
		for _, quoted := range []string{strconv.Quote(secret), jsonQuote(secret)} {
			forms = append(forms, quoted[1:len(quoted)-1])
		}
		for _, form := range forms {
			s = strings.ReplaceAll(s, form, Redacted)
		}
	}
	return s
}

func jsonQuote(s string) string {
	data, _ := json.Marshal(s) // a string never fails
	return string(data)
}

// secretValue is a query parameter with a secret.
var secretValue = lazyregexp.New(
	`(?i)([?&;#](?:[^=&;#\s]*(?:token|secret|passw|pwd|key|auth|sig|credential)[^=&;#\s]*)=)[^&;#\s]+`)

func endOfToken(s string) int {
	if i := strings.IndexFunc(s, unicode.IsSpace); i >= 0 {
		return i
	}
	return len(s)
}

func schemeOf(before string) string {
	i := len(before)
	for i > 0 {
		r, size := utf8.DecodeLastRuneInString(before[:i])
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("+-.", r) {
			break
		}
		i -= size
	}
	return strings.ToLower(before[i:])
}

var (
	// host is what may follow the "@" of user information.
	host = lazyregexp.New(
		`^(\[[0-9A-Fa-f:.%]+\]|[\pL\pN._-]+)(:[0-9]+)?([^\pL\pN._:-]|:?$|:[^0-9])`)
	// version is what follows the "@" of module paths, and the "@v" of proxies.
	version = lazyregexp.New(`^(v/|v[0-9]+([./-]|$)|latest\b|[0-9a-f]{12,40}([^\pL\pN._-]|$))`)
	port    = lazyregexp.New(`^[0-9]{1,5}$`)
)

// userinfo returns where the "@" stands that ends a URL's user information, or
// -1. rest begins behind "://". Passwords may hold "/", "?" and "@" unescaped, as
// git and proxies print them, so the last "@" counts that a host follows.
func userinfo(rest string) int {
	authority := len(rest)
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = i
	}
	// "host:8080" is an address, "me:secret" is not.
	_, after, colon := strings.Cut(rest[:authority], ":")
	suspicious := colon && !port.MatchString(after) && !strings.HasPrefix(rest, "[")
	for i := strings.LastIndexByte(rest, '@'); i >= 0; i = strings.LastIndexByte(rest[:i], '@') {
		next := rest[i+1:]
		switch {
		case i < authority:
			return i
		case version.MatchString(next) && !suspicious:
		case suspicious && next != "", host.MatchString(next) && named(next):
			return i
		}
	}
	return -1
}

// named says whether a host has a dot, a port or is the local one: a bare word
// behind an "@" in a path is rather a branch.
func named(next string) bool {
	name := next
	if i := strings.IndexAny(next, "/?#"); i >= 0 {
		name = next[:i]
	}
	return strings.ContainsAny(name, ".:[") || strings.HasPrefix(name, "localhost")
}

func hide(user, scheme string) string {
	name, _, password := strings.Cut(user, ":")
	switch {
	case strings.HasSuffix(scheme, "http"), strings.HasSuffix(scheme, "https"), // tor+https
		strings.ContainsAny(name, "/?#@"):
		return Hidden
	case password:
		return name + ":" + Hidden
	}
	return user
}

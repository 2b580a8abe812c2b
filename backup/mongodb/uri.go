package mongodb

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/internal/lazyregexp"
)

var (
	hostForm = lazyregexp.New(
		`^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|(?i:%2F)[A-Za-z0-9._%-]+\.sock)(?::([0-9]{1,5}))?$`)
	escapeForm = lazyregexp.New(`^(?:[^%]|%[0-9A-Fa-f]{2})*$`)
	optionForm = lazyregexp.New(`^[A-Za-z0-9]+=`)
)

// splitURI returns the part of a URI that may be shown, and its secrets. It refuses a URI in which
// a delimiter could be a character of the password, because a part of the password would then be
// shown as a host or an option. Its errors contain no part of the URI.
func splitURI(uri string) (show string, secrets []string, err error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok || scheme != "mongodb" && scheme != "mongodb+srv" {
		return "", nil, errors.New("the URI does not begin with mongodb:// or mongodb+srv://")
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.Contains(tail, "@") {
		return "", nil, errors.New(
			`the URI holds a "/" or "?" before its last "@": in a user or password write them as %2F and %3F, in an option write @ as %40`)
	}
	hosts := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		hosts = authority[i+1:]
		if secrets, err = splitUser(authority[:i]); err != nil {
			return "", nil, err
		}
	}
	if hosts == "" {
		return "", nil, errors.New("the URI has no host")
	}
	for _, h := range strings.Split(hosts, ",") {
		m := hostForm.FindStringSubmatch(h)
		if m == nil {
			return "", nil, errors.New("a host of the URI is not a name or an address with a port " +
				"from 1 to 65535")
		}
		if port, _ := strconv.Atoi(m[1]); m[1] != "" && (port < 1 || port > 65535) {
			return "", nil, errors.New("a port of the URI is not a number from 1 to 65535")
		}
	}
	path, query, _ := strings.Cut(tail, "?")
	if strings.Count(path, "/") > 1 {
		return "", nil, errors.New("the database of the URI has a \"/\"")
	}
	for _, o := range optionsOf(query) {
		if !optionForm.MatchString(o) || strings.Contains(o, "?") {
			return "", nil, errors.New("an option of the URI is not of the form name=value")
		}
		_, value, _ := strings.Cut(o, "=")
		secrets = append(secrets, secretValues(o, value)...)
	}
	return scheme + "://" + hosts, secrets, nil
}

// splitUser returns the spellings of a password.
func splitUser(user string) (secrets []string, err error) {
	_, password, _ := strings.Cut(user, ":")
	switch {
	case strings.ContainsAny(user, "@") || strings.Contains(password, ":"):
		return nil, errors.New(`the URI's user or password holds a ":" or "@": write them as %3A and %40`)
	case !escapeForm.MatchString(user):
		return nil, errors.New(
			`the URI's user or password holds a "%" that is not followed by two hex digits: write it as %25`)
	}
	for _, p := range []string{password, unescape(password)} {
		if p != "" {
			secrets = append(secrets, p)
		}
	}
	return secrets, nil
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return ""
}

func optionsOf(query string) []string {
	return strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' })
}

// secretOptions are options with passwords and tokens.
var secretOptions = []string{"tlscertificatekeyfilepassword", "sslclientcertificatekeypassword",
	"authmechanismproperties", "proxypassword"}

func secretValues(option, value string) (secrets []string) {
	for _, name := range secretOptions {
		if strings.HasPrefix(strings.ToLower(option), name+"=") && value != "" {
			secrets = append(secrets, value, unescape(value))
			for _, property := range strings.Split(unescape(value), ",") { // NAME:value
				if _, v, ok := strings.Cut(property, ":"); ok && v != "" {
					secrets = append(secrets, v)
				}
			}
		}
	}
	return secrets
}

// badOption returns an error that names the option that the driver refuses. The driver's own text
// quotes values, so it is not shown.
func badOption(uri string) error {
	_, query, _ := strings.Cut(uri, "?")
	for _, o := range optionsOf(query) {
		if options.Client().ApplyURI("mongodb://localhost/?"+o).Validate() != nil {
			name, _, _ := strings.Cut(o, "=")
			return fmt.Errorf("the MongoDB driver does not accept the value of the URI's option %q", name)
		}
	}
	return errors.New("the MongoDB driver does not accept this combination of user, hosts and " +
		"options in the URI")
}

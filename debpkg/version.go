package debpkg

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Version is a Debian package version. The zero value means no version. Use Compare to compare
// versions: those that dpkg treats as equal (1.0, 0:1.0 and 1.0-0) are not ==.
type Version struct{ text string }

// ParseVersion accepts what `dpkg --validate-version` accepts without a warning (dpkg 1.21), except
// blanks around it and an epoch with a sign.
func ParseVersion(s string) (Version, error) {
	if err := validate(s); err != nil {
		return Version{}, task{"parse", fmt.Sprintf("version %q", s)}.wrap(err)
	}
	return Version{s}, nil
}

func validate(s string) error {
	epoch, upstream, revision := split(s)
	switch {
	case s == "":
		return errors.New("it is empty; want the exact version, such as 5.2.5")
	case strings.Contains(s, ":"):
		if n, err := strconv.ParseInt(epoch, 10, 64); err != nil || n < 0 || n > math.MaxInt32 ||
			epoch[0] == '+' || epoch[0] == '-' {
			return errors.New("the epoch before the colon is not a number that dpkg accepts")
		}
	}
	switch {
	case upstream == "" || upstream[0] < '0' || upstream[0] > '9':
		return errors.New("a Debian version starts with a digit; write 5.2.5 rather than v5.2.5")
	case strings.Contains(s, "-") && revision == "":
		return errors.New("nothing follows the last hyphen")
	case strings.ContainsFunc(upstream, func(r rune) bool {
		return !alnum(r) &&
			!strings.ContainsRune(".-+~:", r)
	}),
		strings.ContainsFunc(revision, func(r rune) bool {
			return !alnum(r) &&
				!strings.ContainsRune(".+~", r)
		}):
		return errors.New("a Debian version consists of letters, digits and the characters .+-~: only")
	}
	return nil
}

func alnum(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

func split(s string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(s, ":"); ok {
		epoch, s = e, rest
	}
	if i := strings.LastIndexByte(s, '-'); i >= 0 {
		s, revision = s[:i], s[i+1:]
	}
	return epoch, s, revision
}

// String returns the text that was parsed.
func (v Version) String() string { return v.text }

// IsZero reports whether v stands for no version.
func (v Version) IsZero() bool { return v.text == "" }

// MarshalText returns the text that was parsed.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.text), nil }

// UnmarshalText parses text as ParseVersion does. An empty text is the zero Version.
func (v *Version) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*v = Version{}
		return nil
	}
	parsed, err := ParseVersion(string(text))
	if err != nil {
		return err
	}
	*v = parsed
	return nil
}

// Compare returns -1, 0 or +1 in dpkg's order (deb-version(7)).
func (v Version) Compare(w Version) int {
	ve, vu, vr := split(v.text)
	we, wu, wr := split(w.text)
	for _, part := range [][2]string{{ve, we}, {vu, wu}, {vr, wr}} {
		if c := comparePart(part[0], part[1]); c != 0 {
			return c
		}
	}
	return 0
}

// comparePart compares alternately a run of non-digits, character by
// character, and a run of digits, as a number of any length.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !digit(a[0]) || b != "" && !digit(b[0]) {
			if oa, ob := order(a), order(b); oa != ob {
				return sign(oa - ob)
			}
			a, b = a[1:], b[1:]
		}
		var na, nb string
		na, a = number(a)
		nb, b = number(b)
		if len(na) != len(nb) {
			return sign(len(na) - len(nb))
		}
		if c := strings.Compare(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

// order returns the weight of the next non-digit. A tilde sorts before the end, letters before
// everything else. A digit weighs as much as the end.
func order(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case alnum(rune(s[0])):
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

// number cuts the leading digits off s and drops their leading zeros.
func number(s string) (digits, rest string) {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

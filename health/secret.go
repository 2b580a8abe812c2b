package health

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// ParseHeader reads lines "Name: value" for [Probe].Header, for example from a file with an API
// key. It skips empty lines. An error has the line's number but not its text, which may be
// secret. A line may have up to 64 KiB.
func ParseHeader(data []byte) (http.Header, error) {
	h := http.Header{}
	s := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; s.Scan(); n++ {
		name, value, ok := strings.Cut(s.Text(), ":")
		if !ok && strings.TrimSpace(s.Text()) != "" {
			return nil, fmt.Errorf("line %d: want 'Name: value'", n)
		}
		if ok {
			h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	return h, s.Err()
}

// ParseUser reads user:password for [Probe].User and Password. It removes the end of the line.
// An error does not contain the text, which may be secret.
func ParseUser(data []byte) (*url.Userinfo, error) {
	user, password, ok := strings.Cut(strings.TrimRight(string(data), "\r\n"), ":")
	if !ok {
		return nil, errors.New("want user:password")
	}
	return url.UserPassword(user, password), nil
}

package installation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"example.com/tykupgrade/debpkg"
)

// Secret names where a secret comes from, because the file must not contain it. Exactly one field
// is set.
type Secret struct {
	Env     string   `yaml:"env"`     // variable with the secret
	File    string   `yaml:"file"`    // file with the secret
	Command []string `yaml:"command"` // command that prints the secret, such as [pass, show, tyk/key]
}

// URI names where a connection URI comes from. Exactly one field is set.
type URI struct {
	Env     string   `yaml:"uri_env"`     // variable with the URI
	File    string   `yaml:"uri_file"`    // file with the URI
	Command []string `yaml:"uri_command"` // command that prints the URI
}

func (u *URI) secret() Secret { return Secret(*u) }

// given counts what is set.
func (s Secret) given() int {
	n := 0
	for _, set := range []bool{s.Env != "", s.File != "", len(s.Command) > 0} {
		if set {
			n++
		}
	}
	return n
}

// read returns the secret. what names it in errors, which never contain it.
func (s Secret) read(ctx context.Context, what string, env func(string) string) (string, error) {
	fail := func(err error, next string) (string, error) {
		return "", &Error{Op: "read", Object: what, Kind: ErrSecret, Err: err, Next: next}
	}
	var value string
	switch {
	case s.Env != "":
		if value = env(s.Env); value == "" {
			return fail(fmt.Errorf("the variable %s is not set", s.Env), "export it")
		}
		return value, nil
	case s.File != "":
		data, err := os.ReadFile(s.File)
		if err != nil {
			return fail(err, "")
		}
		value = string(data)
	default:
		// The output of the command may contain the secret, so it stays out of the error.
		var out bytes.Buffer
		if err := debpkg.Local()(ctx, s.Command, nil, &out, io.Discard); err != nil {
			return fail(silent(err, s.Command[0]), "run the command by hand")
		}
		value = out.String()
	}
	if value = strings.TrimSpace(value); value == "" {
		return fail(errors.New("it is empty"), "")
	}
	return value, nil
}

// silent returns the error of a command without its output.
func silent(err error, program string) error {
	var ran interface{ ExitCode() int }
	switch {
	case errors.Is(err, exec.ErrNotFound), !errors.As(err, &ran):
		return err
	case ran.ExitCode() < 0:
		return fmt.Errorf("%s was killed by a signal", program)
	}
	return fmt.Errorf("%s: exit code %d", program, ran.ExitCode())
}

// words returns what no record may contain: a secret, and the password in it, escaped and
// unescaped. A URI without a password is not a secret.
func words(secret string) []string {
	u, err := url.Parse(secret)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return []string{secret}
	}
	if password, ok := u.User.Password(); ok && password != "" {
		return []string{secret, password, url.QueryEscape(password), url.PathEscape(password)}
	}
	return nil
}

// secrets returns what no record may contain. It leaves out secrets that cannot be read.
func (u *Upgrade) secrets(ctx context.Context) []string {
	var all []string
	add := func(s Secret) {
		if s.given() != 1 {
			return
		}
		if text, err := s.read(ctx, "", u.env); err == nil {
			all = append(all, words(text)...)
		}
	}
	if b := u.Backup; b != nil {
		for _, uri := range b.uris() {
			add(uri.secret())
		}
	}
	if a := u.APIs; a != nil {
		add(a.Secret)
		for _, key := range a.Keys {
			add(key)
		}
	}
	if u.Plugin != nil {
		for _, name := range u.Plugin.Compiler.Env {
			// A setting such as GOPROXY is a secret only with a password in it.
			if w := words(u.env(name)); len(w) > 1 {
				all = append(all, w...)
			}
		}
	}
	return all
}

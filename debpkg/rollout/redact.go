package rollout

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"example.com/tykupgrade/internal/printable"
)

// redact also finds a secret as it looks inside a JSON string, a Go string and a URL.
func (j *journal) redact(s string) string {
	for _, secret := range j.secrets {
		if secret == "" || s == "" {
			continue
		}
		forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret),
			url.User(secret).String()}
		for _, quoted := range []string{strconv.Quote(secret), jsonQuote(secret)} {
			forms = append(forms, quoted[1:len(quoted)-1])
		}
		for _, form := range forms {
			s = strings.ReplaceAll(s, form, "[redacted]")
		}
	}
	return s
}

// clean is redact for text that is shown.
func (j *journal) clean(s string) string { return printable.Text(j.redact(s)) }

func jsonQuote(s string) string {
	data, _ := json.Marshal(s) // a string never fails
	return string(data)
}

// redactJSON changes strings only: a secret of digits would otherwise make numbers invalid.
func (j *journal) redactJSON(note json.RawMessage) (json.RawMessage, error) {
	if j.redact(string(note)) == string(note) {
		return note, nil
	}
	dec := json.NewDecoder(bytes.NewReader(note))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(j.redactAny(v))
}

func (j *journal) redactAny(v any) any {
	switch v := v.(type) {
	case string:
		return j.redact(v)
	case []any:
		for i := range v {
			v[i] = j.redactAny(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[j.redact(k)] = j.redactAny(x)
		}
		return out
	}
	return v
}

// shorten keeps both ends of a text: what was done, and why it failed.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText/2]+"\n[…]\n"+s[len(s)-maxText/2:], "")
}

package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/internal/printable"
	"example.com/tykupgrade/internal/redact"
)

type memoKey struct{}

// memo is the step that a context belongs to.
type memo struct {
	r            *runner
	target, step string
	verifying    bool // a resumed run only looks at what is done
}

func memoOf(ctx context.Context) *memo {
	m, _ := ctx.Value(memoKey{}).(*memo)
	return m
}

var errNoStep = errors.New("the context does not belong to a step")

// Save stores v as JSON with the step that ctx belongs to. A step saves what it is about to change,
// such as the old version. The value is durable when Save returns. The step's Done, Check and Undo
// read it with [Saved], also in a later process. A later Save replaces it.
//
// Save redacts Options.Secrets in the value and refuses more than 1 MiB.
func Save(ctx context.Context, v any) error {
	m := memoOf(ctx)
	if m == nil {
		return fmt.Errorf("save for step: %w", errNoStep)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save for step %s of %s: %w", m.step, m.target, err)
	}
	if len(data) > maxNote {
		return fmt.Errorf("save for step %s of %s: %d bytes are over the limit of %d; save the name of "+
			"a file instead",
			m.step, m.target, len(data), maxNote)
	}
	return m.r.j.add(Record{Kind: KindNote, Target: m.target, Step: m.step, Note: data})
}

// Saved decodes into v what the step saved last. It returns false if the step has saved nothing.
func Saved(ctx context.Context, v any) (bool, error) {
	m := memoOf(ctx)
	if m == nil {
		return false, fmt.Errorf("read what a step saved: %w", errNoStep)
	}
	return savedBy(ctx, m.step, v)
}

// savedBy reads what another step of the same target saved.
func savedBy(ctx context.Context, step string, v any) (bool, error) {
	m := memoOf(ctx)
	if m == nil {
		return false, fmt.Errorf("read what step %s saved: %w", step, errNoStep)
	}
	note := m.r.j.saved(m.target, step)
	if note == nil {
		return false, nil
	}
	if err := json.Unmarshal(note, v); err != nil {
		return false, fmt.Errorf("read what step %s of %s saved: %w", step, m.target, err)
	}
	return true, nil
}

// Say records text for the operator with the step that ctx belongs to. Outside a step it does
// nothing.
func Say(ctx context.Context, text string) {
	if m := memoOf(ctx); m != nil {
		_ = m.r.j.add(Record{Kind: KindInfo, Target: m.target, Step: m.step, Text: text})
	}
}

func (j *journal) redact(s string) string { return redact.Secrets(s, j.secrets...) }

// clean redacts text and makes it safe to print.
func (j *journal) clean(s string) string { return printable.Text(j.redact(s)) }

// redactJSON changes strings only. Redacting a secret of digits would make numbers invalid.
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

package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Audited returns a Runner that records each command of a step: its program, a digest of its
// arguments and input, its success and its duration. The arguments are not recorded. Outside a step
// it only runs the command.
func Audited(run Runner) Runner {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		m := memoOf(ctx)
		if m == nil || m.r == nil || len(argv) == 0 {
			return run(ctx, argv, stdin, stdout, stderr)
		}
		h := sha256.New()
		for _, a := range argv {
			_, _ = fmt.Fprintf(h, "%d %s\n", len(a), a)
		}
		if stdin != nil {
			stdin = io.TeeReader(stdin, h)
		}
		start := time.Now()
		err := run(ctx, argv, stdin, stdout, stderr)
		rec := Record{
			Kind: KindCommand, Target: m.target, Step: m.step, OK: err == nil, Took: time.Since(start),
			Text: path.Base(argv[0]), Digest: hex.EncodeToString(h.Sum(nil)),
		}
		_ = m.r.j.add(rec)
		return err
	}
}

// AuditFormat is an output format of [ExportAudit].
type AuditFormat string

// The formats of an audit log.
const (
	AuditJSON   AuditFormat = "json"   // one JSON object a line
	AuditSyslog AuditFormat = "syslog" // RFC 5424, one message a line, facility "log audit"
)

// auditLine is one event of the audit log. Actor, Host and Plan are those of the call that the
// event belongs to. Hash is the digest of the journal's line: the next line names it.
type auditLine struct {
	Time    time.Time `json:"time"`
	Seq     int64     `json:"seq"`
	Actor   string    `json:"actor"`
	Host    string    `json:"host"`
	Mode    Mode      `json:"mode"`
	Plan    string    `json:"plan"`
	Event   Kind      `json:"event"`
	Wave    string    `json:"wave,omitempty"`
	Target  string    `json:"target,omitempty"`
	Step    string    `json:"step,omitempty"`
	Undo    bool      `json:"undo,omitempty"`
	Result  string    `json:"result,omitempty"` // ok, failed, or a status or outcome
	Command string    `json:"command,omitempty"`
	Digest  string    `json:"command_sha256,omitempty"`
	Text    string    `json:"text,omitempty"`
	Error   string    `json:"error,omitempty"`
	Prev    string    `json:"prev_sha256,omitempty"`
}

// ExportAudit reads a journal and writes one line for each record: who did what, with which result.
// It leaves out what steps saved. If the journal is damaged, ExportAudit writes the lines before
// the damage and returns an [ErrJournal].
func ExportAudit(journal io.Reader, w io.Writer, format AuditFormat) error {
	if format != AuditJSON && format != AuditSyslog {
		return fmt.Errorf("unknown audit format %q (want json or syslog)", format)
	}
	var call auditLine
	var werr error
	_, err := scanJournal(journal, func(rec Record) {
		if rec.Kind == KindRun && rec.Who != nil {
			call.Actor, call.Host = rec.Who.name(), rec.Who.Host
			call.Mode, call.Plan = rec.Mode, rec.Plan
		}
		if rec.Kind == KindNote || werr != nil {
			return
		}
		var data []byte
		if data, werr = json.Marshal(call.with(rec)); werr != nil {
			return
		}
		if format == AuditSyslog {
			data = syslogLine(rec, call.Host, data)
		}
		_, werr = w.Write(append(data, '\n'))
	})
	if werr != nil {
		return fmt.Errorf("write audit log: %w", werr)
	}
	return err
}

func (l auditLine) with(rec Record) auditLine {
	l.Time, l.Seq, l.Event, l.Prev = rec.Time, rec.Seq, rec.Kind, rec.Prev
	l.Wave, l.Target, l.Step, l.Undo = rec.Wave, rec.Target, rec.Step, rec.Undo
	l.Text, l.Error, l.Digest = rec.Text, rec.Error, rec.Digest
	switch rec.Kind {
	case KindCommand:
		l.Command, l.Text = rec.Text, ""
		l.Result = result(rec.OK)
	case KindStep, KindHook, KindVerify:
		l.Result = result(rec.OK)
	case KindEnd:
		l.Result = string(rec.Status)
	case KindDone:
		l.Result = string(rec.Outcome)
	case KindPlan:
		l.Text = strings.Join(rec.Names, " ")
	case KindProbe:
		if l.Result = result(rec.Error == ""); rec.Probes != nil {
			l.Text = rec.Probes.String()
		}
	}
	return l
}

func result(ok bool) string {
	if ok {
		return "ok"
	}
	return "failed"
}

// syslogLine has severity notice, or warning for a failure.
func syslogLine(rec Record, host string, data []byte) []byte {
	const logAudit, warning, notice = 13, 4, 5
	severity := notice
	if rec.Error != "" {
		severity = warning
	}
	name := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, host)
	if name == "" {
		name = "-"
	}
	return fmt.Appendf(nil, "<%d>1 %s %.255s tykupgrade-rollout - %s - %s", logAudit*8+severity,
		rec.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), name, rec.Kind, data)
}

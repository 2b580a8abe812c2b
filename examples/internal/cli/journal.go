package cli

import (
	"cmp"
	"errors"
	"flag"
	"io"
	"os"

	"example.com/tykupgrade/debpkg/rollout"
)

// Journal returns the path of a run's journal: named if it is set, otherwise the file's name +
// ".journal". For a file from stdin it returns other.
func Journal(named, file, other string) string {
	if file == "-" {
		file = ""
	} else if file != "" {
		file += ".journal"
	}
	return cmp.Or(named, file, other)
}

// AuditFlag registers the flag of [Call.Audit].
func AuditFlag(f *flag.FlagSet) {
	f.String("format", string(rollout.AuditJSON), "the `FORMAT`: json, one object a line, or syslog, "+
		"RFC 5424")
}

// Audit prints who did what in the run of a journal, one line for each event.
func (c *Call) Audit(journal string) error {
	f, err := os.Open(journal)
	if errors.Is(err, os.ErrNotExist) {
		return Advice(Refuse(errors.New("the journal "+journal+" does not exist")),
			"-journal names another journal")
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	format := Word(c, "format", rollout.AuditJSON, rollout.AuditSyslog)
	if err := c.Noted(); err != nil {
		return err
	}
	return rollout.ExportAudit(f, c.Out, format)
}

// Report prints a report as text, or as JSON.
func (c *Call) Report(rep *rollout.Report, json bool) error {
	if json {
		return c.JSON(rep)
	}
	return rep.WriteText(c.Out)
}

// Page writes a report as a page to a file.
func Page(path string, rep interface{ WriteHTML(io.Writer) error }) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(rep.WriteHTML(f), f.Close())
}

// Sure asks the question unless yes is set. The answer no is an error.
func (c *Call) Sure(yes bool, question string) error {
	if yes || c.Confirm(question+"?") {
		return nil
	}
	return Advice(Refuse(errors.New("not confirmed")), "-yes confirms")
}

package tyk

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// logger writes as the gateway's logrus does: up to 5.13 and with log_format
// legacy `time="Nov 29 00:33:58" level=error msg="…"`, from 5.14 on
// `time="2026-11-29T01:14:46Z" level=error message="…"`, or JSON.
type logger struct {
	mu     sync.Mutex
	w      io.Writer
	format string
}

func (l *logger) write(version string, now time.Time, level, message string, fields ...string) {
	if l.w == nil {
		return
	}
	modern := !older(version, 5, 14, 0) && l.format != "legacy"
	key, at := "msg", now.Format("Jan 02 15:04:05")
	if modern {
		key, at = "message", now.Format(time.RFC3339)
	}
	var line []byte
	if l.format == "json" {
		m := map[string]string{"time": at, "level": level, key: message}
		for i := 0; i+1 < len(fields); i += 2 {
			m[fields[i]] = fields[i+1]
		}
		line, _ = json.Marshal(m)
	} else {
		line = fmt.Appendf(nil, "time=%s level=%s %s=%s", quoted(at), level, key, quoted(message))
		for i := 0; i+1 < len(fields); i += 2 {
			line = fmt.Appendf(line, " %s=%s", fields[i], quoted(fields[i+1]))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write(append(line, '\n'))
}

// quoted quotes as logrus does: only what needs it.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("-._/@^+", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return fmt.Sprintf("%q", s)
}

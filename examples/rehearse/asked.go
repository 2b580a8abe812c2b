package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/health"
	runner "example.com/tykupgrade/internal/run"
)

var web = http.Client{Timeout: 2 * time.Minute, CheckRedirect: func(*http.Request,
	[]*http.Request) error {
	return http.ErrUseLastResponse
}}

func (c *crossing) get(path string, into any) error {
	resp, err := web.Get("http://" + c.gateway.addr + path)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into)
}

// ofConnection are headers of one connection. A gateway sends them or not, with or without a plugin:
// a real 5.2.5 sends Connection to the upstream in some requests only.
var ofConnection = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade"}

// ask returns the status of a request, and the headers that the client and the upstream saw.
func (c *crossing) ask(path string) (int, map[string]bool, error) {
	resp, err := web.Get("http://" + c.gateway.addr + path)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	seen := map[string]bool{}
	for name := range resp.Header {
		if !slices.Contains(ofConnection, name) {
			seen["response header "+name] = true
		}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var upstream http.Header
	if json.Unmarshal(data, &upstream) == nil {
		for name := range upstream {
			if !slices.Contains(ofConnection, name) {
				seen["request header "+name] = true
			}
		}
	}
	return resp.StatusCode, seen, err
}

// shows returns what the plugin adds to a request: the difference to an API without the plugin.
func (c *crossing) shows() (int, string, error) {
	plainCode, plain, err := c.ask(plainAPI)
	if err != nil {
		return 0, "", err
	}
	code, with, err := c.ask(withPlugin)
	if err != nil {
		return 0, "", err
	}
	var more []string
	for _, name := range slices.Sorted(maps.Keys(with)) {
		if !plain[name] {
			more = append(more, name)
		}
	}
	if code != plainCode {
		more = []string{fmt.Sprintf("HTTP %d", code)}
	}
	return code, strings.Join(more, ", "), nil
}

// proof checks APIs and the log for the plugin of a release, and compares the result with
// preflight's prediction.
func (c *crossing) proof(ctx context.Context, g gatewayPart) error {
	code, shows, err := c.shows()
	if err != nil {
		return err
	}
	_, logErr := health.PluginsLoaded(health.LogFile(runner.Local(runner.Options{}), c.gateway.log,
		c.from)).Run(ctx)
	loaded := code != http.StatusInternalServerError && code != http.StatusNotFound &&
		!errors.Is(logErr, health.ErrUnhealthy)
	if g.Verdict != "" && (g.Verdict == "loads") != loaded {
		c.say("preflight said %q, and the gateway disagrees", g.Verdict)
		logErr = errors.Join(logErr, errors.New("preflight was wrong"))
	} else if g.Verdict != "" {
		c.say("preflight said %q, and the gateway agrees", g.Verdict)
	}
	switch {
	case !loaded, errors.Is(logErr, health.ErrUnhealthy):
		return fmt.Errorf("%s does not run the plugin: HTTP %d; %w", g.kind(), code, logErr)
	case logErr != nil && !errors.Is(logErr, health.ErrLogUnreadable):
		return logErr
	case c.visible == "":
		if c.visible = shows; shows == "" {
			c.visible = "nothing"
		}
	case shows != c.visible && (shows != "" || c.visible != "nothing"):
		return fmt.Errorf("an API request shows %q of the plugin, with %s it was %q", shows,
			c.job.From.Version, c.visible)
	}
	if logErr != nil {
		c.say("the gateway's log cannot be read for plugins")
	} else {
		c.say("the log since the start has no plugin that failed to load")
	}
	if c.visible == "nothing" {
		c.say("an API request shows nothing of the plugin: HTTP %d, as without it", code)
	} else {
		c.say("an API request shows the plugin: %s", c.visible)
	}
	for _, x := range c.routes {
		code, _, err := c.ask(x.path)
		if err != nil {
			return err
		}
		if code >= 500 || code == http.StatusNotFound {
			return fmt.Errorf("your API %s answers with HTTP %d", x.id, code)
		}
		c.say("your API %s: HTTP %d", x.id, code)
	}
	return nil
}

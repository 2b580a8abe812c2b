package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/internal/lab/port"
	labredis "example.com/tykupgrade/internal/lab/redis"
	"example.com/tykupgrade/pluginbuild"
)

// crossing is one gateway host in the child: the current release, the switch of the bundle, the new
// release, and the revert.
type crossing struct {
	job    job
	event  func(format string, a ...any)
	detail []string

	conf    gatewayConf
	raw     map[string]any // the user's configuration
	redis   *labredis.Server
	gateway *service
	publish bundle.Publication
	cache   []bundle.Cached // of the gateway that runs
	from    int64           // where the log of the gateway that runs begins
	routes  []route         // of the user's APIs that have the bundle
	visible string          // what the plugin of the present release brings about
	gates   []fleet.Gate    // of the user, that hold with the present gateway
}

// route is an API of the user.
type route struct{ id, path string }

func (c *crossing) say(format string, a ...any) {
	c.detail = append(c.detail, fmt.Sprintf(format, a...))
}

func (c *crossing) path(name string) string { return filepath.Join(c.job.Dir, name) }

// The steps, in their order.
const (
	stepToday   = "today"
	stepPublish = "publish"
	stepNext    = "next"
	stepBack    = "back"
)

func (c *crossing) step(ctx context.Context, what string) error {
	switch what {
	case stepToday:
		if err := c.prepare(); err != nil {
			return err
		}
		if err := c.run(ctx, c.job.From); err != nil {
			return err
		}
		return errors.Join(c.proof(ctx, c.job.From), c.firstGates(ctx))
	case stepPublish:
		return c.publishNew(ctx)
	case stepNext:
		if err := c.change(ctx, c.job.To); err != nil {
			return err
		}
		return errors.Join(c.proof(ctx, c.job.To), c.holdGates(ctx, c.job.To))
	case stepBack:
		if err := c.change(ctx, c.job.From); err != nil {
			return err
		}
		if err := errors.Join(c.proof(ctx, c.job.From), c.holdGates(ctx, c.job.From)); err != nil {
			return err
		}
		c.gateway.stop()
		return c.publish.Revert(ctx)
	}
	return fmt.Errorf("unknown step %q", what)
}

func (c *crossing) stopAll() {
	if c.gateway != nil {
		c.gateway.stop()
	}
	if c.redis != nil {
		c.redis.Kill()
	}
}

// prepare starts the services around a gateway and writes its files.
func (c *crossing) prepare() error {
	for _, d := range []string{"apps", "served", "middleware", "redis"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	old, err := os.ReadFile(c.job.Old)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("served/"+c.job.Bundle), old, 0o644); err != nil {
		return err
	}
	c.publish = bundle.Publication{Dir: c.path("served"), Name: c.job.Bundle, Run: "rehearse"}
	bundles, err := serve(http.FileServer(http.Dir(c.path("served"))))
	if err != nil {
		return err
	}
	// The upstream shows what reaches it.
	upstream, err := serve(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	if err != nil {
		return err
	}
	c.conf = gatewayConf{dir: c.job.Dir, secret: "rehearsal", bundles: "http://" + bundles + "/",
		upstream: upstream,
		apps:     c.path("apps"), middleware: c.path("middleware"), redisHost: "127.0.0.1",
		redisPort: "1"}
	if c.job.Redis != "" {
		if c.redis, err = labredis.Run(c.job.Redis, c.path("redis")); err != nil {
			return err
		}
		c.conf.redisPort = json.Number(c.redis.Port)
	}
	addr, err := port.Addr()
	if err != nil {
		return err
	}
	_, c.conf.port, _ = net.SplitHostPort(addr)
	c.gateway = &service{component: "gateway", addr: addr, log: c.path("gateway.log"),
		conf: c.path("tyk.conf")}
	return c.definitions()
}

// serve listens on loopback until the process ends.
func serve(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	return l.Addr().String(), nil
}

const (
	withPlugin = "/rehearsal-with-plugin/"
	plainAPI   = "/rehearsal-without/"
)

// definitions writes two APIs of the rehearsal, one with the bundle and one without, and the
// user's.
func (c *crossing) definitions() error {
	own := func(id, listen, value string) error {
		text := fmt.Sprintf(`{"name":%q,"api_id":%q,"org_id":"rehearsal","active":true,"use_keyless":true,"custom_middleware_bundle":%q,
"definition":{"location":"header","key":"x-api-version"},"version_data":{"not_versioned":true,"versions":{"Default":{"name":"Default","use_extended_paths":true}}},
"proxy":{"listen_path":%q,"target_url":"http://%s/","strip_listen_path":true}}`, id, id, value, listen, c.conf.upstream)
		return os.WriteFile(filepath.Join(c.conf.apps, id+".json"), []byte(text+"\n"), 0o644)
	}
	err := errors.Join(own("rehearsal-with-plugin", withPlugin, c.job.Bundle), own("rehearsal-without",
		plainAPI, ""),
		os.WriteFile(c.path("policies.json"), []byte("{}\n"), 0o644))
	if err != nil || c.job.APIs == "" {
		return err
	}
	version, err := semver.NewVersion(c.job.From.Version)
	if err != nil {
		return err
	}
	store := apidef.Directory{Path: c.job.APIs}
	apis, err := store.APIs(context.Background())
	if err != nil {
		return err
	}
	inv, err := apidef.List(context.Background(), store, version)
	if err != nil {
		return err
	}
	for i, a := range apis {
		u := inv.Uses[i]
		if u.Inactive || len(u.Bundles) > 0 && !u.Disabled && !slices.Equal(u.Bundles,
			[]string{c.job.Bundle}) {
			c.say("API %s is left out: it is inactive or names another bundle", a.ID)
			continue
		}
		classic, err := rewriteAPI(a.Classic, c.path("files"), c.conf.upstream)
		if err == nil {
			err = os.WriteFile(filepath.Join(c.conf.apps, a.ID+".json"), classic, 0o644)
		}
		if err == nil && a.OAS != nil {
			var oas []byte
			if oas, err = rewriteAPI(a.OAS, c.path("files"), c.conf.upstream); err == nil {
				err = os.WriteFile(filepath.Join(c.conf.apps, a.ID+"-oas.json"), oas, 0o644)
			}
		}
		if err != nil {
			return fmt.Errorf("API %s: %w", a.ID, err)
		}
		var d struct {
			Proxy struct {
				Listen string `json:"listen_path"`
			} `json:"proxy"`
		}
		if json.Unmarshal(classic, &d) == nil && d.Proxy.Listen != "" && len(u.Bundles) > 0 &&
			!u.Disabled {
			c.routes = append(c.routes, route{a.ID, d.Proxy.Listen})
		}
	}
	return nil
}

// run starts a gateway and waits until it serves its APIs.
func (c *crossing) run(ctx context.Context, g gatewayPart) error {
	c.conf.templates = g.Templates
	if c.raw == nil && c.job.Conf != "" {
		data, err := os.ReadFile(c.job.Conf)
		if err != nil {
			return err
		}
		if c.raw, err = readConf(data); err != nil {
			return err
		}
	}
	conf, changed, err := c.conf.rewrite(c.raw)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.gateway.conf, conf, 0o600); err != nil {
		return err
	}
	if len(changed) > 0 && c.visible == "" {
		c.say("your tyk.conf is used; changed or removed in the copy: %s", strings.Join(changed, ", "))
	}
	c.from = 0
	if info, err := os.Stat(c.gateway.log); err == nil {
		c.from = info.Size()
	}
	c.gateway.program = g.Binary
	c.event("start %s", g.kind())
	if err := c.gateway.start(); err != nil {
		return err
	}
	want, err := semver.NewVersion(g.Version)
	if err != nil {
		return err
	}
	c.cache = nil
	for _, id := range append([]string{"rehearsal-with-plugin"}, c.ids()...) {
		dirs, err := bundle.CacheDir(want, c.conf.middleware, id, c.job.Bundle)
		if err != nil {
			return err
		}
		c.cache = append(c.cache, dirs...)
	}
	hello := "/hello"
	if name, _ := c.raw["health_check_endpoint_name"].(string); name != "" {
		hello = "/" + strings.TrimPrefix(name, "/")
	}
	var last error
	for limit := time.Now().Add(5 * time.Minute); time.Now().Before(limit); time.Sleep(
		100 * time.Millisecond) {
		if _, err := c.gateway.check().Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", g.kind(), err)
		}
		var answer struct {
			Version string `json:"version"`
		}
		if last = c.get(hello, &answer); last != nil {
			continue
		}
		got, err := pluginbuild.ParseVersion(answer.Version)
		if err != nil || !got.Equal(want) {
			return fmt.Errorf("%s says that it is %q, not %s", g.Binary, answer.Version, want)
		}
		if code, _, err := c.ask(plainAPI); err == nil && code == http.StatusOK {
			return nil
		} else if last = err; err == nil {
			last = fmt.Errorf("HTTP %d of an API without a plugin", code)
		}
	}
	return fmt.Errorf("%s does not serve its APIs: %w\n%s", g.kind(), last, c.logged(2000))
}

// ids are those of the user's APIs that have the bundle.
func (c *crossing) ids() []string {
	var all []string
	for _, x := range c.routes {
		all = append(all, x.id)
	}
	return all
}

func (c *crossing) logged(most int) []byte {
	data, _ := os.ReadFile(c.gateway.log)
	data = data[min(int64(len(data)), c.from):]
	return data[max(0, len(data)-most):]
}

// publishNew replaces the old bundle with the new one while the gateway runs.
func (c *crossing) publishNew(ctx context.Context) error {
	if _, err := c.publish.Publish(ctx, c.job.New); err != nil {
		return err
	}
	g := c.job.From
	same := func(when string) error {
		code, shows, err := c.shows()
		if err == nil && shows != c.visible && (shows != "" || c.visible != "nothing") {
			err = fmt.Errorf("%s: HTTP %d, and the plugin shows %q instead of %q", when, code, shows,
				c.visible)
		}
		return err
	}
	if err := same("after the new bundle was published"); err != nil {
		return err
	}
	if err := c.reload(ctx); err != nil {
		return err
	}
	if err := same("after a reload"); err != nil {
		return err
	}
	c.say("%s is published under its old name; the running gateway %s keeps its plugin, also "+
		"after a reload", c.job.Bundle, g.Version)
	// A gateway that crashes now restarts from its cache.
	c.gateway.stop()
	if err := c.run(ctx, g); err != nil {
		return err
	}
	if err := same("after a restart"); err != nil {
		return err
	}
	c.say("and after a restart, from the bundle in its cache")
	return nil
}

// reload makes the gateway read its definitions again, and waits until it has.
func (c *crossing) reload(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.gateway.addr+
		"/tyk/reload?block=true", nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Tyk-Authorization", c.conf.secret)
	resp, err := web.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reload the gateway: HTTP %d", resp.StatusCode)
	}
	return nil
}

// change replaces the gateway with another release, without the cached bundle.
func (c *crossing) change(ctx context.Context, g gatewayPart) error {
	c.gateway.stop()
	if _, err := os.Stat(c.cache[0].Dir); err != nil {
		return fmt.Errorf("the gateway keeps its bundle elsewhere: %w", err)
	}
	for _, d := range c.cache {
		if err := os.RemoveAll(d.Dir); err != nil {
			return err
		}
	}
	if err := c.run(ctx, g); err != nil {
		return err
	}
	if _, err := os.Stat(c.cache[0].Dir); err != nil {
		return fmt.Errorf("the gateway did not fetch the bundle again: %w\n%s", err, c.logged(2000))
	}
	c.say("stopped, %s removed, started: %s fetched the bundle", filepath.Base(c.cache[0].Dir),
		g.kind())
	return nil
}

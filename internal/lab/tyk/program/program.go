// Package program is the command tykd as a function: a stub of Tyk's gateway,
// dashboard or pump as a process that test packages install as
// /opt/tyk-gateway/tyk and the like. It starts in milliseconds and, at SIGTERM,
// dies at once: what is in flight is lost, as gateways before 5.8.3 very nearly
// do.
package program

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/internal/lab/tyk"
)

const usage = `usage: tykd [flags]          serve
       tykd [flags] version  print the version

Every flag NAME can also be given as the environment variable TYKD_NAME (dashes
as underscores), which loses against the flag and wins against the file named
by -conf. The file is a tyk.conf, tyk_analytics.conf or pump.conf; read from it
are listen_address, listen_port, control_api_port, health_check_endpoint_name,
readiness_check_endpoint_name, health_check_endpoint_port, storage.host and
storage.port, use_db_app_configs, liveness_check.check_duration (seconds) and
an object "tykd" of flag names and strings. With enable_bundle_downloader a
gateway serves the definitions of app_path with the plugins of their bundles. The version is also looked for in
the file EXECUTABLE.version, and -name defaults by the executable's name.

`

// settings are the flags after flag, environment and file were laid over each
// other.
type settings struct {
	name, listen, control, version, redis, hello, ready, plugin string
	startDelay, checkEvery, latency, drain, shutdownDelay       time.Duration
	dashboard, print                                            bool
	conf                                                        tyk.Conf
}

// Arg is the first argument of a program that is to call [Main]. The second is the path for Main.
const Arg = "stub-of-tyk"

// Main is this process from now on, and returns only after -h, version and an
// orderly end. path is the program that was started: its name says which of
// Tyk's programs it is, and the file PATH.version which version. Without that
// file it is the given one.
func Main(path, version string, args []string) {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if err := run(path, version, args); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal(err)
	}
}

func run(path, version string, args []string) error {
	s, err := parse(path, version, args)
	if err != nil {
		return err
	}
	if s.print {
		fmt.Println(s.version)
		return nil
	}
	return s.serve()
}

func parse(path, version string, args []string) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("tykd", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(f.Output(), usage); f.PrintDefaults() }
	f.StringVar(&s.name, "name", nameOf(path), "gateway, dashboard or pump")
	f.StringVar(&s.listen, "listen", "", "address or port to listen on (default the program's port "+
		"on every interface)")
	f.StringVar(&s.control, "control", "", "address or port of the control API; health then "+
		"answers there only")
	f.StringVar(&s.version, "version", version, "version to report")
	f.StringVar(&s.redis, "redis", "", "host:port of the Redis to check; empty: Redis is always up")
	f.StringVar(&s.hello, "hello", "", "path of the health endpoint")
	f.StringVar(&s.ready, "ready", "", "path of the readiness endpoint")
	f.StringVar(&s.plugin, "plugin", "none", "none, loaded (adds the header Foo: Bar) or broken")
	f.BoolVar(&s.dashboard, "dashboard", false, "check a dashboard too (always up)")
	f.DurationVar(&s.startDelay, "start-delay", 0, "wait before listening")
	f.DurationVar(&s.checkEvery, "check-every", 10*time.Second, "interval of the gateway's own checks")
	f.DurationVar(&s.latency, "latency", 0, "delay of every answer; a path /delay/150ms/x takes "+
		"that long by itself")
	f.DurationVar(&s.drain, "drain", 0, "at SIGTERM stop listening and wait this long for requests "+
		"in flight (0: die at once)")
	f.DurationVar(&s.shutdownDelay, "shutdown-delay", 0,
		"at SIGTERM keep serving this long before draining")
	conf := f.String("conf", "", "configuration file of the real program")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() == 1 && f.Arg(0) == "version":
		s.print = true
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	set := func(name, value, from string) error {
		if given[name] {
			return nil
		}
		if err := f.Set(name, value); err != nil {
			return fmt.Errorf("%s: %s: %w", from, name, err)
		}
		given[name] = true
		return nil
	}
	var failed error
	f.VisitAll(func(x *flag.Flag) {
		env := "TYKD_" + strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_"))
		if v, ok := os.LookupEnv(env); ok && failed == nil {
			failed = set(x.Name, v, env)
		}
	})
	if failed != nil {
		return nil, failed
	}
	if *conf != "" {
		values, err := readConf(*conf, &s.conf)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			if err := set(name, value, *conf); err != nil {
				return nil, err
			}
		}
	}
	if text, err := os.ReadFile(path + ".version"); err == nil && !given["version"] {
		s.version = strings.TrimSpace(string(text))
	}
	return s, nil
}

// nameOf knows the programs by the names of their binaries.
func nameOf(path string) string {
	switch base := filepath.Base(path); {
	case strings.Contains(base, "pump"):
		return string(tyk.Pump)
	case strings.Contains(base, "analytics"), strings.Contains(base, "dashboard"):
		return string(tyk.Dashboard)
	default:
		return string(tyk.Gateway)
	}
}

func readConf(path string, apis *tyk.Conf) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c struct {
		ListenAddress string `json:"listen_address"`
		ListenPort    int    `json:"listen_port"`
		ControlPort   int    `json:"control_api_port"`
		HelloPort     int    `json:"health_check_endpoint_port"`
		Hello         string `json:"health_check_endpoint_name"`
		Ready         string `json:"readiness_check_endpoint_name"`
		Dashboard     bool   `json:"use_db_app_configs"`
		Storage       struct {
			Host string `json:"host"`
			Port int    `json:"port"`
		} `json:"storage"`
		Liveness struct {
			Every float64 `json:"check_duration"`
		} `json:"liveness_check"`
		Tykd map[string]string `json:"tykd"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(data, apis); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !apis.Downloader {
		apis.AppPath = "" // the sample APIs of the packages are not served
	}
	values := map[string]string{}
	port := c.ListenPort
	if port == 0 {
		port = c.HelloPort
	}
	if port != 0 {
		values["listen"] = net.JoinHostPort(c.ListenAddress, strconv.Itoa(port))
	}
	if c.ControlPort != 0 {
		values["control"] = net.JoinHostPort(c.ListenAddress, strconv.Itoa(c.ControlPort))
	}
	if c.Hello != "" {
		values["hello"] = "/" + c.Hello
	}
	if c.Ready != "" {
		values["ready"] = "/" + c.Ready
	}
	if c.Storage.Host != "" {
		values["redis"] = net.JoinHostPort(c.Storage.Host, strconv.Itoa(c.Storage.Port))
	}
	if c.Dashboard {
		values["dashboard"] = "true"
	}
	if c.Liveness.Every > 0 {
		values["check-every"] = time.Duration(c.Liveness.Every * float64(time.Second)).String()
	}
	for k, v := range c.Tykd {
		values[k] = v
	}
	return values, nil
}

func (s *settings) serve() error {
	o := tyk.Options{Kind: tyk.Kind(s.name), Version: s.version, CheckEvery: s.checkEvery,
		HelloPath: s.hello,
		ReadyPath: s.ready, Control: s.control != "", Dashboard: s.dashboard}
	port := map[tyk.Kind]string{tyk.Gateway: "8080", tyk.Dashboard: "3000", tyk.Pump: "8083"}[o.Kind]
	if port == "" {
		return fmt.Errorf("unknown name %q (want gateway, dashboard or pump)", s.name)
	}
	switch s.plugin {
	case "none":
	case "loaded":
		o.Plugin = tyk.Loaded
	case "broken":
		o.Plugin = tyk.Broken
	default:
		return fmt.Errorf("unknown plugin state %q (want none, loaded or broken)", s.plugin)
	}
	if s.listen == "" {
		s.listen = port
	}
	time.Sleep(s.startDelay)
	stub := tyk.New(o)
	var handler http.Handler = stub
	if o.Kind == tyk.Gateway && s.conf.AppPath != "" {
		s.conf.Log = os.Stderr
		apis := tyk.NewAPIs(o, s.conf)
		stub, handler = apis.Stub, apis
	}
	stub.SetSlow(s.latency)
	if s.redis != "" {
		// The first answer is awaited, so that /ready never tells of a Redis
		// that was not asked.
		stub.SetRedis(ping(s.redis))
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				stub.SetRedis(ping(s.redis))
			}
		}()
	}
	main := &http.Server{Handler: handler}
	if err := s.start(main, s.listen, o.Kind); err != nil {
		return err
	}
	if o.Control {
		if err := s.start(&http.Server{Handler: stub.Control()}, s.control, o.Kind); err != nil {
			return err
		}
	}
	if s.drain == 0 && s.shutdownDelay == 0 {
		select {}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	stub.SetStopping(true)
	time.Sleep(s.shutdownDelay)
	ctx, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()
	return main.Shutdown(ctx)
}

func (s *settings) start(srv *http.Server, addr string, kind tyk.Kind) error {
	if !strings.Contains(addr, ":") {
		addr = ":" + addr
	}
	l, err := net.Listen("tcp", addr)
	if err != nil && kind == tyk.Gateway {
		// The real gateway logs this and goes on without a port.
		log.Print(err)
		return nil
	}
	if err != nil {
		return err
	}
	log.Printf("%s %s on %s, pid %d", s.name, s.version, l.Addr(), os.Getpid())
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	return nil
}

// ping asks a real Redis for its PONG.
func ping(addr string) error {
	down := func(err error) error {
		return fmt.Errorf("storage: Redis is either down or was not configured: %w", err)
	}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return down(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return down(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return down(err)
	}
	// A server that wants a password is up.
	if !strings.HasPrefix(line, "+PONG") && !strings.HasPrefix(line, "-NOAUTH") {
		return down(fmt.Errorf("PING answered %q", line))
	}
	return nil
}

package compiler

import (
	"os"

	"example.com/tykupgrade/internal/goenv"
)

// goSettings and netSettings are the variables that HostEnv reads.
var (
	goSettings = []string{"GOPROXY", "GOPRIVATE", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOINSECURE",
		"GOVCS"}
	netSettings = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
		"no_proxy"}
)

// HostEnv adds to env, for [Options].Env, the settings by which this machine's go command finds
// modules. These are GOPROXY, GOPRIVATE, GONOPROXY, GOSUMDB, GONOSUMDB, GOINSECURE and GOVCS of
// the environment or of `go env -w`, and the proxy variables of the environment. A variable in
// env takes precedence, even if it is empty. Other settings of `go env -w`, such as GOFLAGS, do
// not reach a compiler.
func HostEnv(env map[string]string) (map[string]string, error) {
	s, err := goenv.Read(os.Environ())
	if err != nil {
		return nil, &Error{Op: "build", Object: "with this machine's settings", Err: err}
	}
	all := map[string]string{}
	for _, name := range goSettings {
		all[name] = s.Get(name)
	}
	for _, name := range netSettings {
		all[name] = os.Getenv(name)
	}
	for name, value := range all {
		if value == "" {
			delete(all, name)
		}
	}
	for name, value := range env {
		all[name] = value
	}
	return all, nil
}

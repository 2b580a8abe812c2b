package compiler

import (
	"os"

	"example.com/tykupgrade/internal/goenv"
)

// hostSettings are the variables by which Go finds modules and the network.
var (
	goSettings = []string{"GOPROXY", "GOPRIVATE", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOINSECURE",
		"GOVCS"}
	netSettings = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
		"no_proxy"}
)

// HostEnv returns env, for [Options.Env], with what the go command of this machine
// would use to find modules: GOPROXY, GOPRIVATE, GONOPROXY, GOSUMDB, GONOSUMDB,
// GOINSECURE and GOVCS of the environment or of `go env -w`, and the proxy variables
// of the environment. A variable that env has wins, also an empty one. Nothing else
// that `go env -w` wrote, such as GOFLAGS, reaches a compiler.
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

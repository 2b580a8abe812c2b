package lab

import (
	"encoding/json"
	"os"
	"os/exec"
	"sync"
)

// kept are the settings by which the go command reaches modules. A test takes
// them from the user, wherever they were made; everything else would change
// what the test is about, or breaks older Go (1.16 refuses -buildvcs).
var kept = []string{
	"GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GONOPROXY", "GOINSECURE", "GOAUTH", "GOVCS",
	"GOPATH", "GOMODCACHE", "GOCACHE",
}

var settings = sync.OnceValues(func() (map[string]string, error) {
	cmd := exec.Command("go", append([]string{"env", "-json"}, kept...)...)
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	return values, json.Unmarshal(out, &values)
})

// GoEnv returns the environment for a go command that a test runs. It ignores
// what the user wrote with `go env -w`, in particular GOFLAGS and GOTOOLCHAIN,
// but keeps the settings that lead to modules and caches. The variables in set
// win over both.
func GoEnv(set ...string) []string {
	env := append(os.Environ(), "GOENV=off", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local",
		"GO111MODULE=")
	if values, err := settings(); err == nil { // without a go command the caller's own run says so
		for _, name := range kept {
			env = append(env, name+"="+values[name])
		}
	}
	return append(env, set...)
}

package deptest_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/deptest"
)

// backupModules is what backup links.
var backupModules = map[string]string{
	"filippo.io/age": "encrypts exports",
	"github.com/klauspost/compress": "zstd for exports, gzip at twice the speed of the " +
		"standard library's",
	"filippo.io/hpke":     "of age",
	"golang.org/x/crypto": "signs manifests with OpenSSH keys; also of age",
	"golang.org/x/sys":    "of x/crypto",
}

// mongoModules is what the MongoDB driver links.
var mongoModules = map[string]string{
	"go.mongodb.org/mongo-driver":   "MongoDB",
	"github.com/golang/snappy":      "of the MongoDB driver: wire compression",
	"github.com/montanaflynn/stats": "of the MongoDB driver: round-trip times",
	"github.com/xdg-go/pbkdf2":      "of the MongoDB driver: SCRAM login",
	"github.com/xdg-go/scram":       "of the MongoDB driver: SCRAM login",
	"github.com/xdg-go/stringprep":  "of the MongoDB driver: SCRAM login",
	"github.com/youmark/pkcs8":      "of the MongoDB driver: encrypted client keys",
	"golang.org/x/sync":             "of the MongoDB driver",
	"golang.org/x/text":             "of the MongoDB driver: SCRAM login",
}

// joined is the union of allow-lists.
func joined(lists ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, l := range lists {
		maps.Copy(out, l)
	}
	return out
}

// rules holds every public package to an allow-list of what it links. The five
// public packages never reach each other.
var rules = map[string]deptest.Rule{
	"backup": {
		Own: map[string]string{
			"internal/atomicfile":  "writes files that are there in full or not at all",
			"backup/internal/step": "what the set and its backends share",
		},
		Modules: backupModules,
	},
	"backup/backuptest": {
		Own: map[string]string{
			"backup":               "what it tests",
			"backup/internal/step": "of backup",
			"internal/atomicfile":  "of backup",
		},
		Modules: backupModules,
	},
	"backup/postgres": {
		Own: map[string]string{
			"backup":               "is a Source and a Restorer of its sets",
			"backup/internal/step": "what the set and its backends share",
			"internal/atomicfile":  "of backup",
			"internal/run":         "runs psql, pg_dump and pg_restore here",
		},
		Modules: backupModules,
	},
	"backup/hostfiles": {
		Own: map[string]string{
			"backup":               "the set",
			"backup/internal/step": "what the set and its backends share",
			"internal/atomicfile":  "writes files that are there in full or not at all",
		},
		Modules: backupModules,
	},
	"backup/mongodb": {
		Own: map[string]string{
			"backup":                       "the set",
			"backup/internal/step":         "what the set and its backends share",
			"backup/mongodb/internal/dump": "reads and writes the files of mongodump",
			"internal/redact":              "takes passwords out of errors",
			"internal/atomicfile":          "of backup",
		},
		Modules: joined(backupModules, mongoModules),
	},
	"backup/mongodb/internal/dump": {
		Own: map[string]string{"backup/internal/step": "what the set and its backends share",
			"internal/atomicfile": "of step"},
		Modules: map[string]string{
			"github.com/klauspost/compress": "gzip at twice the speed of the standard library's",
			"go.mongodb.org/mongo-driver":   "BSON and Extended JSON",
			"golang.org/x/sys":              "of step",
		},
	},
	"backup/internal/step": {
		Own:     map[string]string{"internal/atomicfile": "names what is no regular file"},
		Modules: map[string]string{"golang.org/x/sys": "opens files relative to a directory"},
	},
	"backup/redisdb": {
		Own: map[string]string{
			"backup":                      "the set",
			"backup/internal/step":        "what the set and its backends share",
			"backup/redisdb/internal/rdb": "reads and writes the snapshot format",
			"internal/atomicfile":         "writes journals that are there in full or not at all",
			"internal/run":                "starts the scratch redis-server of the deepest verification",
		},
		Modules: joined(backupModules, map[string]string{
			"github.com/redis/go-redis/v9": "the client: one server, Sentinel, cluster, TLS",
			"github.com/cespare/xxhash/v2": "of go-redis",
			"go.uber.org/atomic":           "of go-redis",
		}),
	},
	"backup/redisdb/internal/rdb": {},
	"bundle": {
		Own: map[string]string{"internal/atomicfile": "writes bundles that are there in full " +
			"or not at all", "internal/redact": "takes credentials out of addresses"},
		Modules: map[string]string{
			"github.com/Masterminds/semver/v3": "names a gateway's release",
			"github.com/klauspost/compress":    "Deflate at twice the speed of the standard library's",
		},
	},
	"bundle/apidef": {
		Own: map[string]string{
			"bundle":              "names in definitions, plugin paths, signatures",
			"internal/atomicfile": "replaces definitions and writes its journal",
			"internal/redact":     "of bundle",
		},
		Modules: map[string]string{
			"github.com/Masterminds/semver/v3": "names a gateway's release",
			"github.com/klauspost/compress":    "of bundle",
		},
	},
	"bundle/bundletest": {
		Own: map[string]string{
			"bundle":              "writes the bundles of the plugins that it makes",
			"internal/atomicfile": "of bundle",
			"internal/redact":     "of bundle",
		},
		Modules: map[string]string{
			"github.com/Masterminds/semver/v3": "of bundle",
			"github.com/klauspost/compress":    "of bundle",
		},
	},
	"pluginbuild": {
		Own: map[string]string{
			"internal/run":        "runs go and git",
			"internal/redact":     "takes credentials out of their output",
			"internal/goenv":      "reads the go command's settings without running it",
			"internal/tykversion": "reads versions",
			"internal/atomicfile": "saves what Prepare may have to put back",
		},
		Modules: map[string]string{
			"github.com/Masterminds/semver/v3": "names gateway releases and orders them",
			"golang.org/x/mod":                 "reads go.mod, checks module paths and versions",
			"golang.org/x/sys":                 "syncs a vendor tree with one call",
		},
	},
	"pluginbuild/compiler": {
		Own: map[string]string{
			"pluginbuild":     "releases and images; the recipe that a compiler follows",
			"internal/run":    "cuts output into lines and keeps its end; also of pluginbuild",
			"internal/redact": "takes credentials out of the compiler's output; also of pluginbuild",
			"internal/atomicfile": "writes plugins that are there in full or not at all; also of " +
				"pluginbuild",
			"internal/goenv":      "of pluginbuild",
			"internal/tykversion": "of pluginbuild",
		},
		Modules: map[string]string{
			"github.com/Masterminds/semver/v3": "of pluginbuild",
			"golang.org/x/mod":                 "of pluginbuild",
			"golang.org/x/sys":                 "asks whether the output directory can be written to",

			"github.com/docker/docker": "client of the " +
				"Docker Engine API",
			"github.com/docker/cli": "docker's own reading of " +
				"config.json, credential helpers, contexts and ssh:// hosts",
			"github.com/containerd/errdefs": "tells the engine's " +
				"errors apart",
			"github.com/distribution/reference":    "reads image references",
			"github.com/moby/patternmatcher":       "patterns of .dockerignore",
			"github.com/opencontainers/image-spec": "the platform of a container",
			"github.com/opencontainers/go-digest":  "of distribution/reference",
			"github.com/docker/docker-credential-helpers": "of docker/cli: runs " +
				"credential helpers",
			"github.com/fvbommel/sortorder":    "of docker/cli's context store",
			"github.com/moby/sys/atomicwriter": "of docker/cli's context store",
			"github.com/moby/sys/sequential":   "of moby/sys/atomicwriter",
			"github.com/sirupsen/logrus": "of docker/cli's " +
				"ssh connection",
			"github.com/docker/go-connections": "of the docker client: " +
				"sockets, TLS, ports",
			"github.com/docker/go-units":        "of the docker client",
			"github.com/moby/docker-image-spec": "of the docker client",
			"github.com/containerd/errdefs/pkg": "of the docker client: HTTP " +
				"status as error kind",
			"github.com/pkg/errors":        "of the docker client",
			"github.com/felixge/httpsnoop": "of otelhttp",
			"github.com/cespare/xxhash/v2": "of OpenTelemetry",
			"github.com/go-logr/logr":      "of OpenTelemetry",
			"github.com/go-logr/stdr":      "of OpenTelemetry",
			"go.opentelemetry.io/auto/sdk": "of OpenTelemetry",
			"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp": "of the docker client, which " +
				"traces its calls",
			"go.opentelemetry.io/otel":        "of otelhttp",
			"go.opentelemetry.io/otel/log":    "of otelhttp",
			"go.opentelemetry.io/otel/metric": "of otelhttp",
			"go.opentelemetry.io/otel/trace":  "of otelhttp",
		},
	},
	"pluginbuild/preflight": {Modules: map[string]string{
		"github.com/Masterminds/semver/v3": "orders module versions and names a gateway's release"}},
	"debpkg": {Own: map[string]string{"internal/run": "runs commands here, and ssh",
		"internal/atomicfile": "writes a Record",
		"internal/printable":  "spells out the control characters in what a host prints",
		"internal/redact":     "takes the tokens of private repositories out of it"}},
	"debpkg/debpkgtest": {Own: map[string]string{"debpkg": "whose hosts it plays",
		"internal/atomicfile": "of debpkg", "internal/run": "of debpkg",
		"internal/printable": "of debpkg", "internal/redact": "of debpkg"}},
	"debpkg/rollout": {Own: map[string]string{
		"internal/atomicfile": "syncs the journal's directory",
		"internal/printable":  "keeps what hosts say from steering a terminal",
		"internal/redact":     "keeps secrets out of the journal",
	}},
	"debpkg/rollout/haproxy": {Own: map[string]string{
		"debpkg/rollout":      "implements its Balancer and Switch",
		"internal/atomicfile": "stores the map file of a blue-green switch durably",
		"internal/printable":  "of debpkg/rollout",
		"internal/redact":     "of debpkg/rollout",
	}},
	"debpkg/rollout/rollouttest": {Own: map[string]string{
		"debpkg/rollout":      "implements its Balancer, runs and cuts short its runs",
		"internal/atomicfile": "of debpkg/rollout",
		"internal/printable":  "of debpkg/rollout",
		"internal/redact":     "of debpkg/rollout",
	}},
	"debpkg/fleet": {
		Own: map[string]string{
			"debpkg":                 "changes the packages of a host",
			"debpkg/rollout":         "runs the steps on all hosts",
			"debpkg/rollout/haproxy": "drives HAProxy",
			"health":                 "finds out whether a host serves",
			"internal/run":           "of debpkg",
			"internal/printable":     "of debpkg",
			"internal/redact":        "of debpkg",
			"internal/tykversion":    "reads the inventory's versions; also of health",
			"internal/atomicfile":    "of debpkg/rollout",
		},
		Modules: map[string]string{
			"go.yaml.in/yaml/v3":               "reads the inventory",
			"github.com/Masterminds/semver/v3": "of health: compares versions",
		},
	},
	"health/healthtest": {},
	"health": {Own: map[string]string{
		"internal/redact":     "keeps passwords and API keys out of what is shown",
		"internal/tykversion": "reads what gateways report",
	}, Modules: map[string]string{
		"github.com/Masterminds/semver/v3": "compares the version that answers with the expected one"}},
}

// joins are the packages that installation puts together. It links what they link.
var joins = map[string]string{
	"backup":                 "takes and restores the set",
	"backup/hostfiles":       "the hosts' files in it",
	"backup/mongodb":         "MongoDB in it",
	"backup/postgres":        "PostgreSQL in it",
	"backup/redisdb":         "Redis in it",
	"bundle":                 "the bundles for both versions",
	"bundle/apidef":          "what the APIs use",
	"debpkg":                 "reaches hosts",
	"debpkg/fleet":           "the waves of hosts",
	"debpkg/rollout":         "the run",
	"debpkg/rollout/haproxy": "finds the servers of an installation",
	"health":                 "versions",
	"pluginbuild":            "releases and modules",
	"pluginbuild/compiler":   "compiles",
	"pluginbuild/preflight":  "checks what was compiled",
}

// backends are the packages that backup/backends puts together. It links what they link.
var backends = map[string]string{
	"backup":           "the set",
	"backup/hostfiles": "the files of hosts",
	"backup/mongodb":   "MongoDB",
	"backup/postgres":  "PostgreSQL",
	"backup/redisdb":   "Redis",
}

func init() {
	own, modules := []map[string]string{joins}, []map[string]string{}
	for name := range joins {
		own, modules = append(own, rules[name].Own), append(modules, rules[name].Modules)
	}
	rules["debpkg/fleet/installation"] = deptest.Rule{Own: joined(own...), Modules: joined(modules...)}
	own, modules = []map[string]string{backends}, nil
	for name := range backends {
		own, modules = append(own, rules[name].Own), append(modules, rules[name].Modules)
	}
	rules["backup/backends"] = deptest.Rule{Own: joined(own...), Modules: joined(modules...)}
}

// internalRules does the same for the internal packages that public ones use.
var internalRules = map[string]deptest.Rule{
	"internal/printable": {},
	"internal/run":       {},
	"internal/redact":    {},
	"internal/tykversion": {Modules: map[string]string{
		"github.com/Masterminds/semver/v3": "versions"}},
	"internal/goenv":      {},
	"internal/atomicfile": {},
	"internal/lazyregexp": {},
}

func TestArrows(t *testing.T) {
	t.Parallel()
	all, err := deptest.List("../..", "./...")
	if err != nil {
		t.Fatal(err)
	}
	for path, pkg := range all {
		rel, ok := strings.CutPrefix(path, deptest.Module+"/")
		if !ok || pkg.Module == nil {
			continue
		}
		top, _, _ := strings.Cut(rel, "/")
		switch rule, known := rules[rel]; {
		case known:
			for _, f := range deptest.Check(all, path, rule) {
				t.Error(f)
			}
		case top == "internal":
			if rule, ok := internalRules[rel]; ok {
				for _, f := range deptest.Check(all, path, rule) {
					t.Error(f)
				}
			}
		case top != "examples":
			t.Errorf("package %s has no rule: add one to rules", rel)
		}
		for _, i := range pkg.Imports {
			to, ok := strings.CutPrefix(i, deptest.Module+"/")
			if !ok {
				continue
			}
			if top != "examples" && strings.HasPrefix(to, "examples") {
				t.Errorf("%s imports %s: nothing imports the examples", rel, to)
			}
			if strings.HasPrefix(to, "internal/lab") && !strings.HasPrefix(rel, "internal/lab") &&
				rel != "examples/rehearse" {
				t.Errorf("%s imports %s: only tests and examples/rehearse use the stubs", rel, to)
			}
		}
	}
	for rel := range rules {
		if _, ok := all[deptest.Module+"/"+rel]; !ok {
			t.Errorf("rules name %s, which does not exist", rel)
		}
	}
}

// The guard fails when somebody adds an import: shown by laying a file with
// one over internal/run.
func TestGuardSeesAnAddedImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := filepath.Join(dir, "added.go")
	code := "package run\n\nimport _ \"example.com/tykupgrade/internal/atomicfile\"\nimport _ " +
		"\"github.com/Masterminds/semver/v3\"\n"
	if err := os.WriteFile(src, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	added, err := filepath.Abs("../run/added.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{added: src}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := deptest.List("../..", "-overlay", file, "./internal/run")
	if err != nil {
		t.Fatal(err)
	}
	findings := strings.Join(deptest.Check(all, deptest.Module+"/internal/run",
		internalRules["internal/run"]), "\n")
	for _, want := range []string{"links package internal/atomicfile",
		"links module github.com/Masterminds/semver/v3"} {
		if !strings.Contains(findings, want) {
			t.Errorf("no finding %q in:\n%s", want, findings)
		}
	}
}

func TestCheckSeesAStaleEntry(t *testing.T) {
	t.Parallel()
	all := map[string]deptest.Package{deptest.Module + "/p": {}}
	findings := deptest.Check(all, deptest.Module+"/p", deptest.Rule{Modules: map[string]string{
		"example.org/gone": "was needed"}})
	if len(findings) != 1 || !strings.Contains(findings[0],
		"no longer links module example.org/gone") {
		t.Errorf("findings %q", findings)
	}
}

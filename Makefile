SHELL = bash
.SHELLFLAGS = -o pipefail -c
GO ?= go
TESTFLAGS ?=
FUZZTIME ?= 10s
BENCH ?= .
VULNDB ?= https://vuln.go.dev
# Of the engine's daemon, which nothing here links: AuthZ plugins, and the
# privileges of plugins. They name no symbols, so that using the engine's client
# counts, and github.com/docker/docker gets no mend.
ACCEPTED = GO-2026-4883 GO-2026-4887
# The dev tools are a module of their own, so importers do not get them.
TOOL = $(GO) tool -modfile=internal/tools/go.mod

.PHONY: test test-long check ferret fmt vet lint vuln bench fuzz screen

# Without GORACE each program that is built with -race sleeps a second before it exits.
test test-long: export GORACE ?= atexit_sleep_ms=0

test:
	@began=$$(date +%s); $(GO) test -race -vet=off -timeout 20m $(TESTFLAGS) ./...; code=$$?; \
	echo "go test -race ./...: $$(($$(date +%s) - began)) s on $$(nproc) cores"; exit $$code

# All tests, with those that take minutes of both cores.
test-long:
	TYKUPGRADE_TEST_LONG=1 TYKUPGRADE_TEST_KILLS=50 $(GO) test -race -p $$(nproc) -timeout 60m $(TESTFLAGS) ./...

# The MongoDB backup against FerretDB, a second server. Its module is one of its own, and
# compiling it takes longer than make test's limit has room for.
ferret:
	$(GO) -C internal/lab/ferret test -count=1 -timeout 15m .

# What needs no test to run.
check: fmt vet lint

fmt:
	@files=$$(gofmt -l .); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

vet:
	$(GO) vet ./...

lint:
	$(TOOL) staticcheck ./...
	$(TOOL) revive -config internal/tools/revive.toml -set_exit_status ./...

# Needs the Go vulnerability database: VULNDB is a mirror of it, or a copy made
# of github.com/golang/vulndb with its cmd/indexdb (file:///…).
vuln:
	@out=$$($(TOOL) govulncheck -db $(VULNDB) ./...); code=$$?; \
	new=$$(echo "$$out" | sed -n 's/^Vulnerability #[0-9]*: //p' | grep -vxF $(ACCEPTED:%=-e %)); \
	if [ $$code -ne 0 ] && { [ $$code -ne 3 ] || [ -n "$$new" ]; }; then echo "$$out"; exit 1; fi; \
	echo "govulncheck: nothing but what is accepted ($(ACCEPTED))"

# Of benchmarks over sizes (BenchmarkX/n=1000) it prints how the cost grows.
bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m ./... | $(GO) run ./internal/growth

fuzz:
	@$(GO) list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r pkg dir; do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go 2>/dev/null | cut -c6-); do \
			echo "== $$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x "$$pkg" </dev/null || exit 1; \
		done; \
	done

# The picture in the README, of a real run.
screen:
	$(GO) run ./examples/rehearse 2>/dev/null | grep -v "^\.\.\. " | $(GO) run ./internal/screen go run ./examples/rehearse >docs/rehearsal.svg.new
	mv docs/rehearsal.svg.new docs/rehearsal.svg

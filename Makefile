# SPDX-License-Identifier: Apache-2.0
# make help lists the targets. Nothing here needs the network but the Go
# module proxy, except `packages`, which installs what only tests need.

GO       ?= go
BIN      := bin
BINARIES := redoubt redoubt-node redoubt-proxy redoubt-sentry
# Static binaries: the sentry's chroot has no loader. The same source gives the
# same bytes.
GOBUILD  := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags="-s -w -buildid="
# Debian packages that tests use as real peers and tools.
PACKAGES := iproute2 util-linux runc busybox-static skopeo openssl nginx-light haproxy wrk mmdebstrap postgresql-client redis-tools git curl
# Debian packages that are only the proxy's rivals, or load them.
BENCH_PACKAGES := haproxy caddy nghttp2-client libnginx-mod-stream
# What links gVisor or containerd is too slow to build for the race detector on
# a small machine, and is tested without it.
HEAVY    := ^redoubt.dev/(sandbox/(engine|driver|drivertest)|node$$|node/(admit|pod|doctor)|cmd|examples)
ALL       = $(shell CGO_ENABLED=0 $(GO) list ./... | grep -v '^redoubt.dev/test')

.PHONY: help build demo check test packages benchpackages lint unit race interop conform endure e2e vuln fuzz bench clean
help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

build: ## build all binaries into bin/
	@mkdir -p $(BIN)
	@for b in $(BINARIES); do echo "build $$b" && $(GOBUILD) -o $(BIN)/$$b ./cmd/$$b || exit 1; done

demo: build ## build everything and run the bank, stand-alone
	$(GO) run ./examples/bank/demo -bin $(BIN)

check: lint unit race ## the quick part: formatting, vet, staticcheck, architecture, unit and race tests

test: packages build lint unit race interop conform endure e2e ## the whole test suite; needs root

packages: ## install the Debian packages that tests use
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "install" $$missing; \
	  printf '#!/bin/sh\nexit 101\n' > /tmp/policy-rc.$$$$; \
	  [ -e /usr/sbin/policy-rc.d ] || { install -m 755 /tmp/policy-rc.$$$$ /usr/sbin/policy-rc.d; made=1; }; rm -f /tmp/policy-rc.$$$$; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; code=$$?; \
	  [ -z "$$made" ] || rm -f /usr/sbin/policy-rc.d; exit $$code; fi

benchpackages:
	@$(MAKE) --no-print-directory packages PACKAGES="$(PACKAGES) $(BENCH_PACKAGES)"

lint: ## formatting, vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	CGO_ENABLED=0 $(GO) vet ./...
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./proxy/engine ./proxy/exchange ./proxy/serve ./proxy/xds ./cmd/redoubt-proxy
	CGO_ENABLED=0 $(GO) tool staticcheck ./...

unit: ## tests of what links gVisor or containerd, one package at a time: they count what is left on the machine
	CGO_ENABLED=0 $(GO) test -p 1 $$(echo $(ALL) | tr ' ' '\n' | grep -E '$(HEAVY)')

race: ## all other tests, with the race detector; the proxy's also without epoll
	$(GO) test -race $$(echo $(ALL) | tr ' ' '\n' | grep -vE '$(HEAVY)')
	$(GO) test -race -tags netpoll ./proxy/engine ./proxy/exchange ./proxy/serve

interop: ## against other software: openssl, skopeo, kill -9
	CGO_ENABLED=0 $(GO) test ./test/interop/... ./test/provenance/... ./test/edge/... ./test/bench/load

conform: ## the data plane under attack, and beside nginx and haproxy; a few minutes
	CGO_ENABLED=0 $(GO) test -p 1 -count=1 -timeout 20m ./test/conform/... ./test/upgrade

endure: ## the data plane under churn, attacks and idle crowds; about 5 minutes
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 20m ./test/endure

dist/debian.tar:
	@mkdir -p dist
	mmdebstrap --quiet --format=tar --variant=essential --include=postgresql-15,redis-server,python3 bookworm $@.new $$(ls /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -1) && mv $@.new $@

e2e: build dist/debian.tar ## the whole, attacked and killed, in namespaces of its own; needs root; about 15 minutes
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 40m -v ./test/e2e

vuln: ## known vulnerabilities of what is linked; needs the vulnerability database
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./cmd/...

fuzz: ## each fuzz target for FUZZTIME (20 s)
	@for p in $$(grep -rl '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$p/*_test.go | cut -c6-); do \
	    echo "$$p $$f" && CGO_ENABLED=0 $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-20s} -fuzzminimizetime 5x $$p || exit 1; done; done

bench: build benchpackages ## measure beside the rivals, BENCH=regexp for some rows; see docs/bench.md
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench '$(or $(BENCH),.)' -benchtime 1x -timeout 90m ./test/bench $(BENCHFLAGS)

clean: ## remove what was built
	rm -rf $(BIN) dist

# SPDX-License-Identifier: Apache-2.0
# make help lists the targets. Nothing here needs the network but the Go
# module proxy, except `packages`, which installs what only tests need.

GO      ?= go
BIN     := bin
# One static binary each: the sentry's chroot has no loader, and the same
# source gives the same bytes.
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags="-s -w -buildid="
BINARIES := redoubt redoubt-node redoubt-proxy redoubt-sentry
# Packages that link gVisor or containerd are too slow to build for the race
# detector on a small machine; they are tested without it.
HEAVY   := ./sandbox/engine/... ./sandbox/driver/... ./sandbox/drivertest/... ./node ./node/admit ./node/pod ./node/doctor ./cmd/... ./test/...
LIGHT   := $(shell $(GO) list ./... 2>/dev/null | grep -v -e /sandbox/engine -e /sandbox/driver -e '/node$$' -e /node/admit -e /node/pod -e /node/doctor -e /cmd/ -e /test/)

.PHONY: help build demo check test unit race e2e lint vuln fuzz bench packages clean
help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## build all binaries into bin/
	@mkdir -p $(BIN)
	@for b in $(BINARIES); do echo "build $$b" && $(GOBUILD) -o $(BIN)/$$b ./cmd/$$b || exit 1; done

demo: build ## build everything and run the bank, stand-alone
	$(GO) run ./examples/bank/demo -bin $(BIN)

check: lint unit ## the quick part of the tests: vet, staticcheck, architecture, unit and race tests

test: packages lint unit e2e ## the whole test suite

lint: ## vet, staticcheck, formatting, architecture
	@test -z "$$(gofmt -l api base cmd examples identity mesh node passport provenance proxy sandbox test *.go 2>/dev/null | tee /dev/stderr)"
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(GO) tool staticcheck ./...

unit: ## unit tests, with the race detector where it is quick
	CGO_ENABLED=0 $(GO) test $(HEAVY:./test/...=) 
	$(GO) test -race . $(LIGHT)

clean: ## remove what was built
	rm -rf $(BIN)

# make help lists the targets. The scripts in script/ and the go command do the work.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO      := script/go
PREFIX  ?= /usr/local
DESTDIR ?=

# The version of a build; "unknown" in a source archive, which has no git.
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

# The agent's version is the last commit that changed its source. So its bytes change only when its
# source does, and cached initramfs archives, which depend on these bytes, stay valid.
AGENT_VERSION := $(shell git log -1 --format=%h -- cmd/banger-agent internal/guest/agent internal/guest/proto go.mod 2>/dev/null || echo unknown)

LDFLAGS       := -s -w -X banger/internal/version.build=$(VERSION)
AGENT_LDFLAGS := -s -w -buildid= -X main.version=$(AGENT_VERSION)

.PHONY: help setup build install demo test unit e2e race fuzz stress bench lint fmt docs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## install the missing packages and a Go toolchain
	@script/setup

build: ## build banger, bangerd and banger-agent into bin/
	@$(GO) --where >/dev/null
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/banger ./cmd/bangerd
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(AGENT_LDFLAGS)' -o bin/ ./cmd/banger-agent

install: build ## install programs, man pages and shell completion into PREFIX (/usr/local)
	script/install '$(DESTDIR)$(PREFIX)'

demo: setup ## run a command inside a VM, step by step, on a fresh machine
	@$(MAKE) --no-print-directory build
	@script/demo

test: setup ## run the unit tests, then the end-to-end tests with real VMs
	@$(MAKE) --no-print-directory build
	@script/test unit e2e

unit: ## run the unit tests
	@script/test unit

race: ## run the unit tests with the race detector
	@script/test race

e2e: build ## run the end-to-end tests; E2E=TestRun selects some
	@script/test e2e

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@script/fuzz

stress: build ## run the storms at full size: about an hour
	BANGER_STRESS_CYCLES=10000 $(GO) test -count=1 -v -timeout 60m -run '^TestStress' ./internal/vm
	BANGER_STRESS_DISK=16 $(GO) test -count=1 -timeout 30m -run '^TestFullDisk$$' ./internal/vm
	BANGER_STRESS_VMS=20 BANGER_STRESS_CLIENTS=20 BANGER_STRESS_OPS=1000 E2E='^TestStorm$$' script/test e2e
	BANGER_STRESS_VMS=20 BANGER_STRESS_CLIENTS=200 BANGER_STRESS_OPS=1000 E2E='^TestStorm$$' script/test e2e
	BANGER_STRESS_LIVES=300 BANGER_STRESS_CLOCK=1 E2E='^Test(Cycles|Clock)$$' script/test e2e
	BANGER_STRESS_HALTS=1 BANGER_STRESS_SLOW=1 E2E='^Test(Halted|Slow)' script/test e2e

bench: build ## print a table of measurements; BENCH='-base DIR' compares bin/ with another build
	@$(GO) run ./bench $(BENCH)

lint: ## run gofmt, go vet, staticcheck and shellcheck, and check the generated files
	@script/lint

fmt: ## format the Go source
	@$$($(GO) env GOROOT)/bin/gofmt -l -w cmd internal e2e bench

docs: ## regenerate the command reference, the man pages and the API's description
	@script/docs

clean: ## remove bin/ and the caches of the tests and the demo
	rm -rf bin .cache

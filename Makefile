# make help lists the targets. The work is done by the scripts in script/ and by the go command.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO      := script/go
PREFIX  ?= /usr/local
DESTDIR ?=

# The version of a build. Source archives have no git; they say "unknown".
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

# The agent names the last commit that changed its source, so that its bytes, by which initramfs archives are kept, change only when
# that does.
AGENT_VERSION := $(shell git log -1 --format=%h -- cmd/banger-agent internal/guest/agent internal/guest/proto go.mod 2>/dev/null || echo unknown)

LDFLAGS       := -s -w -X banger/internal/version.build=$(VERSION)
AGENT_LDFLAGS := -s -w -buildid= -X main.version=$(AGENT_VERSION)

.PHONY: help setup build install demo test unit e2e race fuzz bench lint fmt docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing on this machine: packages, a Go toolchain
	@script/setup

build: ## put banger, bangerd and banger-agent into bin/
	@$(GO) --where >/dev/null
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/banger ./cmd/bangerd
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(AGENT_LDFLAGS)' -o bin/ ./cmd/banger-agent

install: build ## install into PREFIX (/usr/local): programs, man pages, shell completion
	script/install '$(DESTDIR)$(PREFIX)'

demo: setup ## from a fresh machine to a command inside a VM, step by step
	@$(MAKE) --no-print-directory build
	@script/demo

test: setup ## unit tests, then end-to-end tests with real VMs
	@$(MAKE) --no-print-directory build
	@script/test unit e2e

unit: ## unit tests only
	@script/test unit

race: ## unit tests with the race detector
	@script/test race

e2e: build ## end-to-end tests only; E2E=TestRun picks some
	@script/test e2e

fuzz: ## each fuzz target for FUZZTIME (10s)
	@script/fuzz

bench: build ## measure, and print one table; BENCH='-base DIR' compares bin/ with another build
	@$(GO) run ./bench $(BENCH)

lint: ## gofmt, go vet, staticcheck, shellcheck, generated files up to date
	@script/lint

fmt: ## format the Go source
	@$$($(GO) env GOROOT)/bin/gofmt -l -w cmd internal e2e bench

docs: ## regenerate what is generated: the command reference, man pages, the API's description
	@script/docs

clean: ## remove what was built and what the tests and the demo keep
	rm -rf bin .cache

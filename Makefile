# samepaged. `make` alone lists what there is to make.

PYTHON ?= python3
PREFIX ?= /usr/local
DESTDIR ?=
PYTEST_ARGS ?=
# Processes that share the tests. Those with guests wait more than they compute: a processor bears two of them.
WORKERS ?= $(shell nproc)
GUEST_WORKERS ?= $(shell expr 2 '*' $(WORKERS))
FUZZ_INPUTS ?= 1000000
FUZZ_TARGETS ?=
FUZZ_IMAGES ?= 100000
STUDY_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Touched when the virtual environment is newer than all that decides what is in it.
STAMP := $(VENV)/.up-to-date
# A worker takes whole files, in the order of tests/conftest.py. `PYTEST_ARGS=-n0` runs all tests in one process.
PARALLEL = -n $(1) --dist loadfile --no-loadscope-reorder
NATIVE := $(wildcard setup.py daemon/samepaged/memory/_pagehash*.[ch])

export PYTHON PREFIX DESTDIR
# Programs that are taken out of their packages instead of being installed (tools/provision).
export PATH := $(CURDIR)/.cache/testbed/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help deps deps-build deps-guests deps-vm deps-experiments venv check check-units check-rules test test-unit test-system test-e2e test-vm test-package \
	test-sources test-native fuzz fuzz-sources chaos demo pictures study bench generate metrics-page dashboards install uninstall wheel deb clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install the missing Debian or Ubuntu packages (as root)
	@tools/provision build guests test

deps-build:
	@tools/provision build

deps-guests:
	@tools/provision build guests

deps-vm:
	@tools/provision build guests vm package

deps-experiments:
	@tools/provision build guests experiments

venv: $(STAMP) ## a virtual environment with a working .venv/bin/samepaged

# The packages are looked at only when there is something to build with them.
$(STAMP): pyproject.toml $(NATIVE)
	@tools/provision build
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing samepaged and its tools into $(VENV), which takes about a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

check: $(STAMP) check-units check-rules ## formatting, lint, types, imports, systemd units, Prometheus rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tools.generate --check

generate: $(STAMP) ## generated files: configuration, metrics, manual page, completion, dashboards
	@$(BIN)/python -m tools.generate

metrics-page: $(STAMP) ## only the tables of docs/reference/metrics.md
	@$(BIN)/python -m tools.generate metrics

dashboards: $(STAMP) ## only the Grafana dashboards
	@$(BIN)/python -m tools.generate dashboards

check-units: $(STAMP)
	@tools/check-units $(CURDIR)/$(BIN)/samepaged

check-rules:
	@tools/check-rules

test: deps $(STAMP) ## every test, those with real guests too (as root; about seven minutes)
	$(BIN)/pytest $(call PARALLEL,$(GUEST_WORKERS)) $(PYTEST_ARGS) tests/unit tests/system tests/chaos

test-unit: $(STAMP) ## the tests that need no guest (a minute and a half)
	$(BIN)/pytest $(call PARALLEL,$(WORKERS)) $(PYTEST_ARGS) tests/unit

test-system: deps $(STAMP) ## the tests with real guests (as root)
	$(BIN)/pytest $(call PARALLEL,$(GUEST_WORKERS)) $(PYTEST_ARGS) tests/system tests/chaos

test-e2e: deps $(VENV)/.spark ## alerts at a real Alertmanager, a study of guests, a fleet on Spark (as root; some minutes)
	$(BIN)/pytest $(PYTEST_ARGS) tests/e2e

$(VENV)/.spark: $(STAMP)
	@tools/provision spark
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[spark]'
	@touch $@

test-vm: deps-vm $(STAMP) ## precopy, KSM, KVM and the service, in an emulated Debian host (as root; some minutes)
	$(BIN)/python -m tests.support.vm -- tests/vm --ignore=tests/vm/test_package.py $(PYTEST_ARGS)

test-sources: deps-experiments $(STAMP) ## whose the pages are, against guests' own word: all kernels, Debian (as root; 15 minutes)
	$(BIN)/pytest $(PYTEST_ARGS) tests/attribution

test-package: deps-vm $(STAMP) ## the Debian package installed, upgraded and purged in that host (as root; some minutes)
	$(BIN)/python -m tests.support.vm -- tests/vm/test_package.py $(PYTEST_ARGS)

test-native: $(STAMP) ## the native module under the sanitizers
	tests/fuzz/native/run.sh

fuzz: $(VENV)/.fuzz ## FUZZ_INPUTS (1000000) hostile inputs for each parser, or for FUZZ_TARGETS; two hours
	@$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) $(FUZZ_TARGETS)

fuzz-sources: deps-guests $(STAMP) ## FUZZ_IMAGES (100000) memories of real guests, damaged, read for their owners (as root; an hour)
	@$(BIN)/python -m tests.fuzz.images --images $(FUZZ_IMAGES)

$(VENV)/.fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

chaos: deps $(STAMP) ## kill, stop, crowd and starve it, hundreds of times (as root; half an hour)
	SAMEPAGED_CHAOS=full $(BIN)/pytest $(PYTEST_ARGS) tests/chaos

demo: deps-guests $(STAMP) ## three real guests, measured for DEMO_SECONDS (60); leaves nothing behind (as root)
	@$(BIN)/python -m demo

RENDER := observability/grafana/render

pictures: $(STAMP) ## the pictures of the documentation, from real guests with KSM off and on (as root; six minutes)
	@tools/provision build guests test pictures
	@cd $(RENDER) && npm install --no-audit --no-fund --loglevel=error
	@$(BIN)/python -m demo.pictures

study: deps-experiments $(STAMP) ## the paper's study on real guests, into docs/analysis/study.md; goes on where it stopped (as root; two hours)
	$(BIN)/python -m experiments $(STUDY_ARGS)

bench: deps-vm $(STAMP) ## the figures that README.md quotes, into bench/results.json (as root)
	$(BIN)/python -m bench

install: deps-build ## into PREFIX (/usr/local) below DESTDIR, with its systemd unit
	@tools/install

uninstall: ## remove what install laid; configuration and state stay
	@tools/uninstall

wheel: $(STAMP) ## a wheel, into dist/
	@PYTHON=$(BIN)/python tools/wheels --alone dist

deb: ## a Debian package for this machine's release, into dist/
	@tools/provision build package
	@tools/build-deb dist

clean: ## remove what was made here, the downloads included
	rm -rf $(VENV) .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/results.json
	find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +
	rm -rf daemon/*.egg-info daemon/samepaged/memory/*.so

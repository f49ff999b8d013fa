# samepaged. `make` alone lists the targets.

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
# Touched when the virtual environment is newer than all files that determine its content.
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

help: ## list the targets
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

venv: $(STAMP) ## create a virtual environment with a working .venv/bin/samepaged

# Packages are checked only before a build.
$(STAMP): pyproject.toml $(NATIVE)
	@tools/provision build
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing samepaged and its tools into $(VENV), which takes about a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

check: $(STAMP) check-units check-rules ## check formatting, lint, types, imports, systemd units, Prometheus rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tools.generate --check
	@$(BIN)/python -m tools.prose --check

generate: $(STAMP) ## generate files: configuration, metrics, manual page, completion, dashboards
	@$(BIN)/python -m tools.generate

metrics-page: $(STAMP) ## generate only the tables of docs/reference/metrics.md
	@$(BIN)/python -m tools.generate metrics

dashboards: $(STAMP) ## generate only the Grafana dashboards
	@$(BIN)/python -m tools.generate dashboards

check-units: $(STAMP)
	@tools/check-units $(CURDIR)/$(BIN)/samepaged

check-rules:
	@tools/check-rules

test: deps $(STAMP) ## all tests, including those with real guests (as root; about seven minutes)
	$(BIN)/pytest $(call PARALLEL,$(GUEST_WORKERS)) $(PYTEST_ARGS) tests/unit tests/system tests/chaos

test-unit: $(STAMP) ## run the tests without guests (a minute and a half)
	$(BIN)/pytest $(call PARALLEL,$(WORKERS)) $(PYTEST_ARGS) tests/unit

test-system: deps $(STAMP) ## run the tests with real guests (as root)
	$(BIN)/pytest $(call PARALLEL,$(GUEST_WORKERS)) $(PYTEST_ARGS) tests/system tests/chaos

test-e2e: deps $(VENV)/.spark ## alerts at a real Alertmanager, a study of guests, a fleet on Spark (as root; some minutes)
	$(BIN)/pytest $(PYTEST_ARGS) tests/e2e

$(VENV)/.spark: $(STAMP)
	@tools/provision spark
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[spark]'
	@touch $@

test-vm: deps-vm $(STAMP) ## precopy, KSM, KVM and the service, in an emulated Debian host (as root; some minutes)
	$(BIN)/python -m tests.support.vm -- tests/vm --ignore=tests/vm/test_package.py $(PYTEST_ARGS)

test-sources: deps-experiments $(STAMP) ## compare page attribution with the guests' own reports: all kernels, Debian (as root; 15 minutes)
	$(BIN)/pytest $(PYTEST_ARGS) tests/attribution

test-package: deps-vm $(STAMP) ## the Debian package installed, upgraded and purged in that host (as root; some minutes)
	$(BIN)/python -m tests.support.vm -- tests/vm/test_package.py $(PYTEST_ARGS)

test-native: $(STAMP) ## test the native module under the sanitizers
	tests/fuzz/native/run.sh

fuzz: $(VENV)/.fuzz ## FUZZ_INPUTS (1000000) hostile inputs for each parser, or for FUZZ_TARGETS; two hours
	@$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) $(FUZZ_TARGETS)

fuzz-sources: deps-guests $(STAMP) ## page attribution of FUZZ_IMAGES (100000) damaged memory images of real guests (as root; an hour)
	@$(BIN)/python -m tests.fuzz.images --images $(FUZZ_IMAGES)

$(VENV)/.fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

chaos: deps $(STAMP) ## hundreds of injected failures: kills, hangs, overload, lack of resources (as root; about an hour)
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

bench: deps-vm $(STAMP) ## measure the figures of docs/develop/figures.md, into bench/results.json (as root)
	$(BIN)/python -m bench

install: deps-build ## install into PREFIX (/usr/local) below DESTDIR, with the systemd unit
	@tools/install

uninstall: ## remove the installed files; keep configuration and state
	@tools/uninstall

wheel: $(STAMP) ## build a wheel in dist/
	@PYTHON=$(BIN)/python tools/wheels --alone dist

deb: ## build a Debian package for this machine's release in dist/
	@tools/provision build package
	@tools/build-deb dist

clean: ## remove build results and downloads
	rm -rf $(VENV) .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/results.json
	find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +
	rm -rf daemon/*.egg-info daemon/samepaged/memory/*.so

# Everything runs in .venv, made from pinned requirements by the first target that needs it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
# Tests start hundreds of processes: what each would compile again is kept, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that starts and is new enough; `make PYTHON=…` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
OTHERS := build/others
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Most tests wait for other processes: four at a time, those of one file together, the folders with the longest first.
PYTEST := $(PY) -m pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder
SOURCES := schemas pipeline stages tests
# What touches no broker need not be run on another one. The longest files first.
ON_KAFKA := tests/chaos/test_chaos.py tests/flow/test_revoked_token.py tests/contract/test_kafka_security.py \
	tests/flow tests/engine tests/contract --ignore-glob='*/test_salesforce_*'

MINUTES ?= 5
SEED ?= 1

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

.PHONY: install
install: $(VENV)/.runtime ## .venv with what running needs, `turnout` in .venv/bin

.PHONY: demo
demo: $(VENV)/.runtime ## the whole product on this machine, with stand-ins; no settings needed
	$(VENV)/bin/turnout demo $(ARGS)

.PHONY: test
test: lint ## lint, and every test that needs only Python
	$(PYTEST) $(ARGS)

.PHONY: test-kafka
test-kafka: $(VENV)/.dev ## contract, engine, flow and chaos tests on Apache Kafka (needs Java 17 and Maven)
	TURNOUT_TEST_BROKER=apache $(PYTEST) $(ON_KAFKA) $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## formatter, linter, strict types, import direction
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: format
format: $(VENV)/.dev ## put the code into its form
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/ruff check --fix $(SOURCES)

.PHONY: bench
bench: $(VENV)/.dev ## the numbers of the README (`rebalance` needs Java 17 and Maven)
	$(PY) -m tests.bench $(ARGS)

.PHONY: bench-others
bench-others: $(VENV)/.dev $(OTHERS)/.made ## the engine's hop against FastStream and Quix Streams, on Apache Kafka
	$(PY) -m tests.bench.others --python $(OTHERS)/bin/python $(ARGS)

.PHONY: chaos
chaos: $(VENV)/.dev ## kills and faults for MINUTES minutes from SEED, the outcome checked
	$(PY) -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev ## orgs that fail for ever, then an outage of all, within MINUTES minutes from SEED: flat, and nothing lost
	$(PY) -m tests.soak --minutes $(MINUTES) --seed $(SEED) $(ARGS)

.PHONY: venv
venv: $(VENV)/.dev ## .venv with everything that development needs

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.runtime: $(VENV)/.made requirements.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime .ci/requirements-dev.txt
	$(PIP) install --require-hashes -r .ci/requirements-dev.txt
	touch $@

# Frameworks that the product is compared with: no part of it, and in no environment that it runs in.
$(OTHERS)/.made: $(VENV)/.made tests/bench/others-requirements.txt
	$(VENV)/bin/python -m venv --clear $(OTHERS)
	$(OTHERS)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r tests/bench/others-requirements.txt
	touch $@

# Only for whoever changes the dependencies; needs pip-tools on the path.
COMPILE := pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-annotate \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
.PHONY: requirements
requirements: ## pin the dependencies again, from pyproject.toml
	CUSTOM_COMPILE_COMMAND="make requirements" $(COMPILE) --extra embedded --build-deps-for editable -o requirements.txt pyproject.toml
	CUSTOM_COMPILE_COMMAND="make requirements" $(COMPILE) --extra embedded --extra dev -c requirements.txt -o .ci/requirements-dev.txt pyproject.toml
	CUSTOM_COMPILE_COMMAND="make requirements" $(COMPILE) -o tests/bench/others-requirements.txt tests/bench/others-requirements.in

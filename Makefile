# `make quickstart` (set up, then design crystals), `make test` (the quick tests), `make test-all` and `make docs`.
SHELL := /bin/bash
VENV := .venv
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
# Processes that share out the test files; each takes up to 6 GB.
WORKERS ?= 2
# `make test-slow` begins no test later than this; those left are skipped and listed.
MINUTES ?= 600
# Programs that the tests compile: a second run finds those of the first.
test test-slow: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/build/compiled
# The first interpreter of at least 3.11; `make PYTHON=/path/to/python quickstart` names another one.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)

.PHONY: quickstart test test-slow test-all docs setup lint clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   set up, then design crystals by configs/quickstart.yaml into runs/quickstart"
	@echo "make test         set up, then ruff, mypy and the quick tests"
	@echo "make test-all     the same, and then the tests that take long"
	@echo "make docs         set up, then the documentation site, its examples executed, in build/docs/index.html"
	@echo "make setup        only set up: $(VENV) with the exact versions of requirements/lock.txt"

setup: $(READY)

$(READY): requirements/lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python of version 3.11 or later found; name one: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)"; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/lock.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

quickstart: setup
	$(VENV)/bin/crysjax design configs/quickstart.yaml --out runs/quickstart

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m mypy

test: lint
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: setup
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --minutes $(MINUTES) -m slow

test-all: test test-slow

$(DOCS_READY): $(READY) requirements/docs.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/docs.txt
	@touch $@

docs: setup $(DOCS_READY)
	$(VENV)/bin/python -m sphinx -W --keep-going -E -q -b html -d build/docs-cache/doctrees docs build/docs
	@! grep -rlE '<(script|link|img)[^>]*(src|href)="(https?:)?//' build/docs --include='*.html' || \
	  { echo "these pages load from another server"; exit 1; }
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) runs build *.egg-info

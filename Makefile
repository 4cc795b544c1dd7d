# Everything a newcomer or CI types. Each target makes its own `.venv`; nothing is installed system-wide.
#
#   make demo    fine-tune the bundled model through the service, about two minutes
#   make test    unit tests, then integration tests
#   make check   format, lint, types, layers, sizes
#   make bench   measured ratios against plain transformers + PEFT
#   make docs    the documentation as a static site under site/
#
# PYTHON=python3.12 picks the interpreter, PIP_FLAGS adds options to every pip call (an index, say).

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
# Processes of the tests: `auto` is one a core; 0 runs them in pytest's own, for a debugger.
WORKERS ?= auto

VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
# Named with its version: an unpinned torch may fetch gigabytes that nobody asked for.
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test unit integration check format bench docs clean
.DELETE_ON_ERROR:
# pip and pytest want the two cores to themselves.
.NOTPARALLEL:

help:
	@sed -n 's/^#   //p' Makefile

# One stamp for each depth of installation: the demo does not wait for the developers' tools.
$(VENV)/.engine: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Tinsmith needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing Tinsmith and its engine into $(VENV) ($(TORCH) is the large part)"
	@$(PIP) "$(TORCH)"
	@$(PIP) -e ".[engine]"
	@touch $@

$(VENV)/.dev: $(VENV)/.engine
	@echo "Installing the developers' tools into $(VENV)"
	@$(PIP) -e ".[engine,dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.engine
	@$(PIP) -e ".[docs]"
	@touch $@

demo: $(VENV)/.engine
	@$(BIN)/tinsmith demo $(ARGS)

test: unit integration

unit: $(VENV)/.dev
	@$(BIN)/python -m pytest tests --ignore=tests/integration --ignore=tests/interop \
		-n $(WORKERS) --maxprocesses 8 --dist worksteal $(ARGS)

# A file's services are started once; the last test of interop counts the calls of all the others.
integration: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/integration -n $(WORKERS) --maxprocesses 2 --dist loadfile $(ARGS)
	@$(BIN)/python -m pytest tests/interop $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python tools/size_report.py

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The project's few commands. Each can be repeated: what is there already is kept.
#
#   make up     install, train a small model on this machine, serve it until Ctrl-C
#   make test   make what the tests need, then run every test
#
# Settings: PYTHON=python3.11, VENV=.venv, PORT=8000, KEEP=1 (don't retrain because code changed),
# TESTS=tests/test_x.py (only these). Lines of .env, if there is one, go to every command.

SHELL := /bin/bash
# Where a shell asks for no bytecode files, torch would be compiled anew by every command.
unexport PYTHONDONTWRITEBYTECODE
VENV ?= .venv
TESTS ?= tests
PY := $(VENV)/bin/python
.DEFAULT_GOAL := help

ifneq ($(wildcard .env),)
include .env
export $(shell sed -n 's/^\([A-Z][A-Z0-9_]*\)=.*/\1/p' .env)
endif

BUILD = $(PY) -m scripts.build --install-s $$(cat $(VENV)/.install_s) $(if $(KEEP),--keep)
PYTEST = $(PY) -m pytest -q

.PHONY: help setup up build down test test-fast lint bench clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(VENV)/.core ## make the virtual environment and install

up: $(VENV)/.core ## install, train, print the report card, serve chat until Ctrl-C
	@$(BUILD) --serve $(if $(PORT),--port $(PORT))

build: $(VENV)/.core ## everything `make up` does, without serving
	@$(BUILD)

down: $(VENV)/.core ## stop a server that `make up` left running
	@$(PY) -m scripts.down

test: lint ## every test; builds and installs what they need
	@dev/browser.sh
	@dev/sandbox.sh
	@dev/promtool.sh $(VENV)
	@$(BUILD)
	@failed=0; \
	$(PYTEST) -n auto --no-loadscope-reorder --dist loadfile -m "not browser" $(TESTS) || failed=1; \
	$(PYTEST) -m browser $(TESTS) || failed=1; \
	exit $$failed

test-fast: $(VENV)/.dev ## the tests that need no trained model and no browser: under a minute
	@OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist loadfile -m "not slow and not browser" $(TESTS)

lint: $(VENV)/.dev ## ruff and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check -q .
	@$(VENV)/bin/mypy

bench: $(VENV)/.core ## how fast this machine trains, beside its matrix-multiply speed
	@$(PY) -m scripts bench train

clean: ## back to a fresh clone: removes .venv and .nanochat, the trained model included
	rm -rf .venv .nanochat .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.core: pyproject.toml constraints.txt dev/install.sh
	@dev/install.sh $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt dev/install.sh
	@dev/install.sh $(VENV) dev
	@touch $(VENV)/.core $@

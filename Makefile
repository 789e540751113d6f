# One command each, the same for people and for CI. Set-up happens once, before whatever needs it,
# and speaks on stderr: stdout is the command's own (make up ARGS="--json" > run.json).

PYTHON ?= python3
ARGS ?=
SETUP := $(PYTHON) -I murmur/bootstrap.py
BIN := .venv/bin
export PYTHONUTF8 := 1
# Containers often set it; dozens of processes would then compile the same modules, each for itself.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup up test test-contracts audit-contracts test-environments check format bench fuzz lock

help:
	@echo 'make up              set up once, then run a whole network here: murmur up   (ARGS="--rounds 6 --json")'
	@echo 'make setup           set up only'
	@echo 'make test            contracts and Python tests                              (ARGS="-m \"not slow\"")'
	@echo 'make test-contracts  recompile the contracts, compare, run the Solidity tests'
	@echo 'make audit-contracts slither over the contracts: every finding must be answered in contracts/slither.answers.toml'
	@echo 'make test-environments  the adapters of other environments, against the real libraries'
	@echo 'make check           format, lint, types, import layers'
	@echo 'make format          apply format and safe lint fixes'
	@echo 'make bench           measurements                                            (ARGS="gap")'
	@echo 'make fuzz            readers of hostile bytes, with atheris, for longer       (ARGS="bundle 600")'
	@echo 'make lock            resolve the dependencies again into constraints.txt'

setup:
	@$(SETUP) up >&2

up: setup
	@$(BIN)/murmur up $(ARGS)

test: test-contracts
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not e2e"
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m e2e
else
	@$(BIN)/python -m pytest $(ARGS)
endif

test-contracts:
	@$(SETUP) test >&2
	@$(SETUP) npm run --silent check
	@$(SETUP) npm test --silent

audit-contracts:
	@$(SETUP) test >&2
	@$(BIN)/python -m contracts.audit

test-environments:
	@$(SETUP) check >&2
	@$(BIN)/python -m tests.adapters $(ARGS)

check:
	@$(SETUP) check >&2
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports

format:
	@$(SETUP) check >&2
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m ruff check --fix .

bench:
	@$(SETUP) test >&2
	@$(BIN)/python -m tests.bench $(ARGS)

fuzz:
	@$(SETUP) test >&2
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt atheris >&2
	@$(BIN)/python -m tests.fuzz $(ARGS)

lock:
	@$(SETUP) lock >&2

# Every target makes .venv by itself on a fresh clone. Another interpreter: make PYTHON=/path/to/python3 ...
# More arguments: make test ARGS="-k pack", make demo ARGS="--sagas 500", make bench SUBJECT=volume ARGS="--s3".

PYTHON ?=
ARGS ?=
# What `make bench` runs: a file of benchmarks/.
SUBJECT ?= speed
export PYTHON

BIN := .venv/bin
# Four test processes, which often wait, each with servers of its own; make test WORKERS= runs one, with readable output as it goes.
WORKERS ?= -n 4 --dist worksteal
# Targets share .venv, and the servers of the tests share the machine.
.NOTPARALLEL:

.PHONY: help demo run test check bench docs image release-check format clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the whole product in half a minute (a minute on a busy machine), on real servers that it starts and stops itself
	@tools/bootstrap run
	@$(BIN)/sagaz-tiering demo $(ARGS)

run: ## the daemon with config/embedded.yaml; its data is in .sagaz-tiering (Ctrl-C ends it)
	@tools/bootstrap run
	@exec $(BIN)/sagaz-tiering run --config config/embedded.yaml $(ARGS)

test: ## the quick share of the tests, on real PostgreSQL, Redis and S3 servers (check: all of them)
	@tools/bootstrap dev
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

check: ## what CI runs: lint, format, types, every test
	@tools/bootstrap dev
	@echo "· ruff check" && $(BIN)/python -m ruff check .
	@echo "· ruff format --check" && $(BIN)/python -m ruff format --check .
	@# One process reads all tests beside it, so that each of those that run them finds them compiled.
	@echo "· mypy --strict" && { $(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 & $(BIN)/python -m mypy && wait; }
	@echo "· pytest" && $(BIN)/python -m pytest $(WORKERS) $(ARGS)

bench: ## saves and reads beside sagaz's own storages and bare clients; SUBJECT=volume: ageing, sizes and memory
	@tools/bootstrap dev
	@$(BIN)/python benchmarks/$(SUBJECT).py $(ARGS)

docs: ## the documentation site in build/site, offline and strict: open build/site/index.html
	@tools/bootstrap dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)
	@echo "· build/site/index.html"

image: ## the container image sagaz-tiering:VERSION, by buildah where it is there, else by docker
	@tools/image $(ARGS)

release-check: ## sdist and wheel, installed into an empty environment, the first commands and demo from there
	@tools/bootstrap dev
	@tools/release-check $(ARGS)

format: ## put the code into its form
	@tools/bootstrap dev
	@$(BIN)/python -m ruff check --fix --quiet . || true
	@$(BIN)/python -m ruff format .

clean: ## remove .venv and caches; data (.sagaz-tiering) stays
	@rm -rf .venv build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean; .sagaz-tiering, if there is one, holds the data of 'make run' and was left alone"

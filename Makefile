# Everything a newcomer needs. Set-up happens by itself, once, into .venv, from a lock with hashes.
.DEFAULT_GOAL := help
.PHONY: help setup prepare train table slurm status bench test test-slow test-cluster lint format lock board figures docs clean
SHELL := /bin/bash

PYTHON ?= python3
CONFIG ?= configs/quickstart.yaml
ARGS ?=
DATA ?= mnist
TABLE ?= mnist
SEEDS ?= 0
JOBS ?= 1
NODES ?= 1
GPUS ?= 1
TIME ?= 24:00:00
SLURM ?=
SHARED ?=
ROUNDS ?= 1
EXTRAS ?=
STN := .venv/bin/stn
SOURCES := stn_lightning tests benchmarks docs examples notebooks

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed $(EXTRAS:%=.venv/.installed-%)  ## install into .venv (the other verbs do it by themselves); EXTRAS=birds: timm and weights trained on ImageNet, too

.venv/.installed: requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}; 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	@echo "installing into .venv (6 GB with PyTorch's CUDA libraries, a minute or two; once)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@# editable_mode=compat puts the clone on sys.path; else its folder hides the package from scripts beside it
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --config-settings editable_mode=compat --editable .
	@touch $@

.venv/.installed-%: .venv/.installed requirements-%.lock
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-$*.lock
	@touch $@

train: .venv/.installed  ## train and test: the quickstart, or CONFIG="a.yaml b.yaml" ARGS="--trainer.max_epochs 3"
	@$(STN) fit $(addprefix --config ,$(CONFIG)) $(ARGS)

prepare: .venv/.installed  ## download and check data sets: DATA="mnist"
	@$(STN) prepare $(DATA)

table: .venv/.installed  ## a table of the paper, ours beside it: TABLE=mnist SEEDS="0 1 2" JOBS=2 CONFIG=recipe.yaml; SLURM=1: a job array
	@$(STN) table configs/tables/$(TABLE).yaml $(if $(filter command line,$(origin CONFIG)),$(addprefix --config ,$(CONFIG))) --seeds $(SEEDS) $(if $(filter command line,$(origin JOBS)),--jobs $(JOBS)) $(if $(SLURM),--slurm --gpus $(GPUS) --time $(TIME)) $(if $(ARGS),-- $(ARGS))

slurm: .venv/.installed  ## train as a SLURM job: CONFIG="a.yaml b.yaml" NODES=2 GPUS=8 TIME=4:00:00 ARGS=...
	@$(STN) submit $(addprefix --config ,$(CONFIG)) --nodes $(NODES) --gpus $(GPUS) --time $(TIME) $(if $(SHARED),--shared) $(if $(ARGS),-- $(ARGS))

status: .venv/.installed  ## how far the runs are
	@$(STN) status

bench: .venv/.installed-dev  ## speed, side by side with others: ARGS="--quick", or names of benchmarks; writes runs/bench
	@.venv/bin/python -m benchmarks $(ARGS)

test: .venv/.installed-dev  ## the tests, in a few minutes
	.venv/bin/python -m pytest -n 2 -m "not slow and not cluster" $(ARGS)

test-slow: .venv/.installed-dev  ## the long proofs: kills, resumes, training curves
	.venv/bin/python -m pytest -n 2 -m slow $(ARGS)

test-cluster: .venv/.installed-dev  ## the same on a SLURM that it starts here (Debian, root): ROUNDS=3
	STN_ROUNDS=$(ROUNDS) .venv/bin/python -m pytest -m cluster tests/cluster $(ARGS)

lint: .venv/.installed-dev  ## style and types
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy

format: .venv/.installed-dev  ## format the sources
	.venv/bin/ruff check --fix $(SOURCES)
	.venv/bin/ruff format $(SOURCES)

lock: .venv/.installed-dev  ## renew the locks (asks the package index)
	.venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements.lock
	.venv/bin/uv pip compile pyproject.toml --quiet --extra dev --constraint requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements-dev.lock
	.venv/bin/uv pip compile pyproject.toml --quiet --extra birds --constraint requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements-birds.lock

board: .venv/.installed  ## TensorBoard over all runs
	.venv/bin/tensorboard --logdir runs

figures: .venv/.installed  ## draw the figures of docs/operations and docs/architecture.md
	.venv/bin/python docs/figures.py
	.venv/bin/python docs/architecture.py

docs: .venv/.installed-dev  ## the documents and the API as pages: site/index.html
	.venv/bin/mkdocs build --strict

clean:  ## remove .venv and caches; runs and data stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site *.egg-info

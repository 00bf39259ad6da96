# Everything a person types. The work of `setup` and `setup-upstream` is in tools/dev/setup_env.sh.
#   PYTHON=python3.12   the interpreter of a new environment
#   PYTEST_ARGS='...'   more arguments for pytest
#   TEST_JOBS=1         test processes side by side (default: one per core, at most 8)
#   DEMO_ARGS='...'     more arguments for tools/demo.py
#   PRETRAIN_ARGS='...' more arguments for tools/train.py, such as --cfg-options train_dataloader.num_workers=15
#   OUT=DIR             folder of a benchmark or a pretraining (default: work_dirs/comparison, work_dirs/speed, work_dirs/pretrain)
#   METHODS_ARGS='...'  more arguments for snakemake, such as a table or --config OPTION=VALUE
#   SPEED_ARGS='...'    what to measure, and more arguments (default: all)
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo pretrain test docs benchmark-methods benchmark-speed setup-upstream test-upstream lint format clean distclean

VENV_PYTHON := .venv/bin/python
UPSTREAM_PYTHON := .venv-upstream/bin/python
PYTHON ?=
PYTEST_ARGS ?=
TEST_JOBS ?= $(shell cores=$$(nproc); echo $$((cores < 8 ? cores : 8)))
DEMO_ARGS ?=
PRETRAIN_ARGS ?=
METHODS_ARGS ?=
SPEED_ARGS ?= all
export PYTHON

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## build .venv, once, and again when the requirements change
	@tools/dev/setup_env.sh

demo: setup ## render data, train, test and show four tasks on this machine
	$(VENV_PYTHON) tools/demo.py $(DEMO_ARGS)

pretrain: setup ## train the encoders that ship again (hours on 2 cores; goes on where it stopped)
	$(VENV_PYTHON) tools/train.py configs/pretrain/swin_nano_pico_attributes.py --amp --resume --work-dir $(or $(OUT),work_dirs/pretrain) \
	    $(PRETRAIN_ARGS)
	$(VENV_PYTHON) tools/model_converters/export_encoders.py "$$(cat $(or $(OUT),work_dirs/pretrain)/last_checkpoint)" $(or $(OUT),work_dirs/pretrain)

test: setup ## run the whole test suite
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

docs: setup ## build the documentation as a site, in site/
	$(VENV_PYTHON) -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs . site
	@echo 'site/docs/index.html'

benchmark-methods: setup ## compare all methods under one protocol (hours; goes on where it stopped)
	$(VENV_PYTHON) -m snakemake -s benchmarks/methods/Snakefile --directory $(or $(OUT),work_dirs/comparison) \
	    --cores $$(nproc) $(METHODS_ARGS)

benchmark-speed: setup ## measure time and memory on this machine (20 minutes on 2 cores)
	mkdir -p $(or $(OUT),work_dirs/speed)
	$(VENV_PYTHON) -m benchmarks.speed $(SPEED_ARGS) --json $(or $(OUT),work_dirs/speed)/rows.json

setup-upstream: ## build .venv-upstream, with the packages of OpenMMLab itself
	@tools/dev/setup_env.sh upstream

test-upstream: setup-upstream ## run the whole test suite there
	OMP_NUM_THREADS=1 $(UPSTREAM_PYTHON) -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

lint: setup ## check format and style
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .

format: setup ## format the code and repair what can be repaired
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

clean: ## remove build products, caches and what the demo wrote
	rm -rf build dist site docs/api *.egg-info .pytest_cache .ruff_cache work_dirs/demo
	find . -path './.venv*' -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## also remove both environments and the links of the editable install
	rm -rf .venv .venv-upstream mmvmt/.mim

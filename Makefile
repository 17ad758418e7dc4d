# Every verb a person needs. Needs python3 (3.11+), git and make; all else is installed into .venv from the locks.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never
export DVC_NO_ANALYTICS := 1
unexport PYTHONPATH VIRTUAL_ENV

.PHONY: help setup run exp test test-fast check format lock params serve ui deliver bench bench-serving pull push clean

help: ## list every verb
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.synced ## make .venv from the hashed lock (done by every other verb)

.uv/bin/uv: requirements/uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Pinwerk needs 3.11 or newer: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@touch $@

.venv/.synced: requirements/dev.lock .uv/bin/uv
	@test -x .venv/bin/python || .uv/bin/uv venv --quiet --python $(PYTHON) .venv
	@echo "setup: installing requirements/dev.lock into .venv"
	@.uv/bin/uv pip sync --quiet --require-hashes --python .venv/bin/python requirements/dev.lock
	@touch $@

run: setup ## rebuild the model from conf/ with dvc repro; DATA=breast_cancer for another data set
ifdef DATA
	@dvc exp run --quiet -S data=$(DATA)
else
	@python -m stages.configure
	@dvc repro
endif
	@python -m stages.summary

exp: setup ## run one experiment: make exp SET="model=lightgbm seed=7"
	@dvc exp run $(foreach pair,$(SET),-S '$(pair)')

test: setup ## every test
	@pytest -n 2

test-fast: setup ## the tests that take no more than a few seconds
	@pytest -n 2 -m "not slow"

check: setup ## ruff, mypy, import-linter, params.yaml, dvc.yaml's deps
	@ruff format --check --quiet . || { echo "error: not formatted; make format"; exit 1; }
	@ruff check --quiet .
	@mypy
	@lint-imports --no-logo
	@python -m stages.configure --check
	@python -m stages.closure

format: setup ## format the code and mend what ruff can
	@ruff format .
	@ruff check --fix .

params: setup ## write params.yaml from conf/
	@python -m stages.configure

lock: .uv/bin/uv ## resolve requirements/*.lock anew: every version and hash, no host
	@.uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --upgrade --python-version 3.11 \
	  --all-extras --group dev pyproject.toml -o requirements/dev.lock
	@.uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --upgrade --python-version 3.11 \
	  requirements/clients.in -o requirements/clients.lock
	@echo uv | .uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --upgrade - -o requirements/uv.lock

serve: setup ## answer requests with the model that dvc.lock pins, on port 8000
	@uvicorn serve.app:app --port 8000

ui: setup ## open the MLflow UI on the record
	@python -m stages.tracking ui

deliver: setup ## deliver the records that a tracking server could not take
	@python -m stages.tracking deliver

bench: setup ## the benchmarks: the framework's cost (writes bench/pipeline.md), drift on ten million rows
	@python -m bench.pipeline
	@python -m bench.drift

bench-serving: setup ## the service against its peers (writes bench/serving.md); needs wrk
	@python -m bench.serving

push: setup ## push data and models to the DVC remote
	@dvc push

pull: setup ## fetch data and models that dvc.lock pins
	@dvc pull

clean: ## remove the environment and caches, never data or models
	rm -rf .venv .clients .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# GNU make 4.3 or newer. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:
.PHONY: help setup demo test coverage digests lint format ui pages lock clean

VENV := .venv
STAMP := $(VENV)/.seggen-installed
SAY_READY = echo "Ready. Put seggen, dvc and dg on the PATH of this shell: source $(VENV)/bin/activate"
# `make setup TORCH=cpu` installs torch's build for CPUs: from PyTorch's own index, or from
# TORCH_INDEX. It leaves out what only production and development need; DEV=1 adds the latter.
TORCH ?=
TORCH_INDEX ?=
DEV ?=
JOBS ?= 2
DAGSTER_PORT ?= 3000
MLFLOW_PORT ?= 5000
# Stages of one pool (dvc.yaml: meta.dagster.pool) that Dagster runs at a time.
GPU_SLOTS ?= 1
# Other addresses that browsers find Dagster or MLflow at, such as http://localhost:8080 through an
# SSH tunnel.
ORIGINS ?=

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# One thread a process: stages and tests run side by side, and small tensors gain nothing from a
# second thread.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# No tool reports home.
export DO_NOT_TRACK ?= true
export MLFLOW_DISABLE_TELEMETRY ?= true
export DAGSTER_DISABLE_TELEMETRY ?= yes
export DVC_NO_ANALYTICS ?= true
export HF_HUB_DISABLE_TELEMETRY ?= 1
# uv reads its own settings; a machine whose package index is set for pip alone means the same one.
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
export UV_HTTP_TIMEOUT ?= 300

define INSTALL_LOCKED
uv pip sync --python $(VENV)/bin/python --require-hashes --compile-bytecode requirements.lock
uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
endef
# The lock has no hash of this build, so that its versions count, not its hashes.
define INSTALL_CPU
uv pip install --python $(VENV)/bin/python --compile-bytecode --constraints requirements.lock \
	$(if $(TORCH_INDEX),--index $(TORCH_INDEX),--torch-backend cpu) $(if $(DEV),--group dev) --editable '.[pipeline]'
endef
INSTALL = $(if $(filter cpu,$(TORCH)),$(INSTALL_CPU),$(INSTALL_LOCKED))

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## Make .venv and install what requirements.lock names
	@$(if $(filter setup,$(MAKECMDGOALS)),$(SAY_READY),:)

# Uses uv; where there is none, pip brings it. The lock holds uv too, so that it stays.
$(STAMP): requirements.lock pyproject.toml
	@if [[ ! -x $(VENV)/bin/python ]]; then
		for name in python3.11 python3.12 python3.13 python3; do
			python=$$("$$name" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null || true)
			[[ -z $$python ]] || break
		done
		[[ -n $$python ]] || { echo "No Python 3.11 or newer on the PATH; install one and run make again." >&2; exit 1; }
		if command -v uv >/dev/null; then uv venv --quiet --python "$$python" $(VENV); else
			"$$python" -m venv $(VENV)
			$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
		fi
	fi
	# Compiled once, here: where PYTHONDONTWRITEBYTECODE is set (many containers do), every process
	# would compile what it imports.
	$(INSTALL)
	touch $@

demo: setup ## Run the whole pipeline (2 stages at a time; JOBS=4 for 4) and print the ablation table
	@git rev-parse --git-dir >/dev/null 2>&1 || git init --quiet  # an archive has none, and DVC wants it
	# Stages write what they track to the disk; one process sends it to MLflow, and ends with the
	# last of it.
	python -m seggen_core track --follow & follower=$$!
	trap 'kill $$follower 2>/dev/null || true' EXIT
	status=0
	python -m dagster_dvc.repro --state-folder .seggen --jobs $(JOBS) ablation || status=$$?
	kill $$follower 2>/dev/null || true
	wait $$follower || python -m seggen_core track || true
	[[ $$status == 0 ]] || exit $$status
	python -m seggen_core report

test: setup ## Run the tests
	pytest --numprocesses $(JOBS) --dist loadfile

coverage: setup ## Run the tests and print which lines they reach (half as much CPU again)
	pytest --numprocesses $(JOBS) --dist loadfile --cov --cov-report=term

digests: setup ## Run the pipeline at smoke size (2 minutes) and print the digest of every file it makes
	@folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	pytest --quiet --basetemp "$$folder/run" tests/test_pipeline.py -k ends_in_a_table >&2
	cd "$$folder"/run/workspace0
	find data -type f ! -name .gitignore -exec sha256sum {} + | LC_ALL=C sort -k 2

lint: setup ## Check style, spelling, types and imports
	ruff check
	ruff format --check
	codespell
	mypy
	lint-imports

format: setup ## Put the code into shape
	ruff check --fix
	ruff format

ui: setup ## Start Dagster on 127.0.0.1:3000 (DAGSTER_PORT) and MLflow on :5000 (MLFLOW_PORT)
	@git rev-parse --git-dir >/dev/null 2>&1 || git init --quiet
	exec python -m dagster_project.ui --dagster-port $(DAGSTER_PORT) --mlflow-port $(MLFLOW_PORT) \
		--gpu-slots $(GPU_SLOTS) $(addprefix --origin ,$(ORIGINS))

pages: setup ## Write the documentation site to build/site; a broken link fails
	python -m tools.site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

lock: ## Resolve requirements.lock again, keeping the versions that still fit
	uv pip compile pyproject.toml --extra pipeline --extra production --extra video --extra onnx \
		--group dev --universal --python-version 3.11 --quiet \
		--generate-hashes --no-emit-index-url --no-header --output-file requirements.lock

clean: ## Remove the environment and the caches of the tools; data, runs and unfinished work stay
	rm -rf $(VENV) .coverage* build dist *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +

# macloom: every target works on a machine that has only Python 3.11 or newer, make and gcc.
# The targets own a private environment in .venv and never touch the system's packages.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# One pytest worker per core; `make test WORKERS=0` runs in one process, for a debugger.
WORKERS ?= auto
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: demo test lint bench docs help clean

demo: $(READY) ## run everything once: a table, and a report in runs/demo/
	$(PY) -m macloom demo

test: $(READY) ## run the tests and the examples of the documentation
	$(PY) -m pytest -n $(WORKERS)

lint: $(READY) ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

bench: $(READY) ## measure start-up times and the speed of the codecs
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(PY) $$file; done

docs: $(READY) ## render docs/ into site/
	$(PY) -m pip install -q -c constraints.txt -e ".[docs]"
	$(PY) -m zensical build

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1 /' | while read -r target text; do \
		printf '  make %-7s %s\n' "$$target" "$$text"; done

clean: ## remove the environment, caches, builds and rendered docs; results in runs/ stay
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis src/macloom.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: macloom needs Python 3.11 or newer, and '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>&1 || echo 'not there'); try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@echo "installing macloom and what it needs into $(VENV); the first time takes a few minutes"
	$(PY) -m pip install -q -c constraints.txt -e ".[dev,llm,rtl,search]"
	@touch $@

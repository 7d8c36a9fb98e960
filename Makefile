# `make help` lists what there is to do. PYTHON=python3.12 make app takes another interpreter.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
BROWSERS := chromium chromium-browser google-chrome

.DEFAULT_GOAL := help
.PHONY: help app lab test check bench format hooks clean chromium

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  %-8s %s\n' "$$name" "$$text"; done

app: $(VENV)/.app ## serve the workbench and print its address (options: ARGS="--port 8900 --browser")
	@$(BIN)/python -m workbench app $(ARGS)

lab: $(VENV)/.lab ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab $(ARGS) notebooks

test: $(VENV)/.test chromium ## run all tests, in Chromium too (options: ARGS="-k quantizer")
	@store=$$(mktemp -d) && trap 'rm -rf "$$store"' EXIT && \
	WORKBENCH_STORE="$$store" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --nbmake tests notebooks $(ARGS)

check: $(VENV)/.test ## lint, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(VENV)/.bench chromium ## print the figures that the README quotes
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

format: $(VENV)/.test ## mend what can be mended, and empty the notebooks
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/nbstripout notebooks/*.ipynb

hooks: $(VENV)/.test ## have all this looked at before each commit
	@$(BIN)/pre-commit install

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Each stamp says that the environment holds what it is named after, as pyproject.toml and constraints.txt ask for it.
$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make an environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.app: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the workbench needs into $(VENV); this takes a few minutes, once."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.lab: $(VENV)/.app
	@$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements"
	@touch $@

$(VENV)/.test: $(VENV)/.app
	@$(INSTALL) -e ".[test,dev]"
	@$(INSTALL) --no-deps torchdistill  # the tests want its losses alone, which do without the torchvision that it asks for
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@$(INSTALL) -e ".[test,dev,peers]"
	@touch $@

chromium:
	@for name in $(BROWSERS); do if command -v $$name >/dev/null; then exit 0; fi; done; \
	if command -v apt-get >/dev/null; then \
		as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$as_root apt-get update -qq && $$as_root apt-get install -y -qq --no-install-recommends chromium fonts-liberation && exit 0; \
	fi; \
	echo "Chromium is missing and could not be installed: the browser tests are skipped. Install Chromium, then make test again." >&2

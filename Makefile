# Two commands: `make demo` and `make test`. Each sets up its own virtual environment from nothing.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Versions of transformers, and of torch with the newest transformers, that must lead to the plans
# of those in constraints.txt and to the answers of their own eager code.
NEWEST := 5.24.0
VERSIONS := $(addprefix transformers-,4.57.6 5.0.0 5.5.4 5.19.0 5.20.2 $(NEWEST)) torch-2.14.1

.PHONY: demo test test-slow test-versions plans lint clean

demo: $(VENV)/.installed
	$(BIN)/glmc compile models/tiny-moe --target xpu --output out/tiny-moe.xpu --if-changed
	$(BIN)/glmc run out/tiny-moe.xpu --prompt "The source code for a work means" --max-new-tokens 48

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# The whole grid of models and every row of docs/numbers.md: half an hour on two cores.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# A few minutes; each version is installed into a folder of its own, 6 GB for a torch with CUDA.
test-versions: $(VENV)/.installed-dev $(VERSIONS:%=.versions/%/.installed)
	GLMC_VERSIONS="$(VERSIONS:%=.versions/%)" $(BIN)/python -m pytest -n 0 -m versions tests/versions

# Every preset and shipped model, for every target: whether a plan differs from its stored digest.
plans: $(VENV)/.installed-dev
	$(BIN)/python -m tools.plan_replay

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .versions out .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist *.egg-info runtime/build runtime/dist */*.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml runtime/pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable 'runtime[text]' --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.versions/transformers-%/.installed: $(VENV)/bin/python
	$(BIN)/pip install --quiet --target $(@D) transformers==$*
	touch $@

.versions/torch-%/.installed: $(VENV)/bin/python
	$(BIN)/pip install --quiet --target $(@D) torch==$* transformers==$(NEWEST)
	touch $@

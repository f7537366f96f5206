# Two commands: `make demo` and `make test`. Each sets up its own virtual environment from nothing.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint clean

demo: $(VENV)/.installed
	$(BIN)/glmc compile models/tiny-moe --target xpu --output out/tiny-moe.xpu --force
	$(BIN)/glmc run out/tiny-moe.xpu --prompt "The source code for a work means" --max-new-tokens 48

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# The whole grid of models and every row of docs/numbers.md: half an hour on two cores.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) out

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml runtime/pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable 'runtime[text]' --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

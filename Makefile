# Two commands: `make demo` and `make test`. Each sets up its own virtual environment from nothing.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Versions of transformers, and of torch with the newest transformers, that must lead to the plans
# of those in constraints.txt and to the answers of their own eager code.
NEWEST := 5.24.0
VERSIONS := $(addprefix transformers-,4.57.6 5.0.0 5.5.4 5.19.0 5.20.2 $(NEWEST)) torch-2.14.1

# The engines that the tests run inside, each in an environment of its own (docs/engines.md), and
# where the wheel of vLLM is kept, which takes half a minute to build.
VLLM := 0.33.0
SGLANG := 0.5.23
UV := 0.13.9
ENGINES := .engines
ENGINE_WHEELS ?= $(ENGINES)/wheels
ENGINE_TESTS := -m pytest -n 0 -m engines --confcutdir=tests/engines --durations=10
# Other releases for `make engine-matrix`, such as MATRIX="vllm==0.32.0 sglang==0.5.20", and files of
# tests for them, all unless some are named, such as MATRIX_FILES="test_compat test_offline".
MATRIX ?=
MATRIX_FILES ?=
# A release of vLLM that has no environment of its own is laid over the newest one's, from a wheel.
MATRIX_LAID = $(foreach each,$(filter vllm==%,$(MATRIX)),$(if $(wildcard $(ENGINES)/vllm-$(patsubst vllm==%,%,$(each))/bin/python),,$(each)))
MATRIX_WHEELS = $(patsubst vllm==%,$(ENGINE_WHEELS)/vllm-%.built,$(MATRIX_LAID))

# Tests start hundreds of processes of ours: each would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-slow test-versions test-vllm test-sglang plans lint clean
.PHONY: engines-vllm engines-sglang engine-matrix test-sglang-servers test-sglang-engines

demo: $(VENV)/.installed
	$(BIN)/glmc compile models/tiny-moe --target xpu --output out/tiny-moe.xpu --if-changed
	$(BIN)/glmc run out/tiny-moe.xpu --prompt "The source code for a work means" --max-new-tokens 48

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# Whole models against each other, processes of several ranks, a browser, the commands of the README.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'long and not slow and not cuda'

# The whole grid of models and every row of docs/numbers.md: half an hour on two cores.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# A few minutes; each version is installed into a folder of its own, 6 GB for a torch with CUDA.
test-versions: $(VENV)/.installed-dev $(VERSIONS:%=.versions/%/.installed)
	GLMC_VERSIONS="$(VERSIONS:%=.versions/%)" $(BIN)/python -m pytest -n 0 -m versions tests/versions

engines-vllm: $(ENGINES)/vllm/.installed
engines-sglang: $(ENGINES)/sglang/.installed

# Servers that start, serve and end: minutes. An engine's artifacts are compiled by $(VENV).

# To import SGLang takes ten seconds of a core. So two processes run all tests, one for each core: one
# has servers that are forks of a process that has imported SGLang, the other one engines in the
# process, whose end ends all processes below it.
SGLANG_SERVERS := refusals server faults ranks compiled
SGLANG_FIRST := artifact compat limits metrics plugin serving step surface
SGLANG_TESTS := $(patsubst tests/engines/sglang/test_%.py,%,$(wildcard tests/engines/sglang/test_*.py))
SGLANG_ENGINES := $(SGLANG_FIRST) $(filter-out $(SGLANG_SERVERS) $(SGLANG_FIRST),$(SGLANG_TESTS))

# To import vLLM takes ten seconds of a core. So two processes run all tests, one for each core: one
# has servers that are forks of a process that has imported vLLM, the other one engines in the process.
# There the plug-in that can't register comes before one has registered.
VLLM_SERVERS := forks server ranks equality faults
VLLM_FIRST := plugin
VLLM_TESTS := $(patsubst tests/engines/vllm/test_%.py,%,$(wildcard tests/engines/vllm/test_*.py))
VLLM_ENGINES := $(VLLM_FIRST) $(filter-out $(VLLM_SERVERS) $(VLLM_FIRST),$(VLLM_TESTS))

test-vllm: $(VENV)/.installed $(ENGINES)/vllm/.installed
	$(MAKE) --jobs=2 --keep-going --output-sync test-vllm-servers test-vllm-engines

# Both need what test-vllm makes.
.PHONY: test-vllm-servers test-vllm-engines
test-vllm-servers: FILES := $(VLLM_SERVERS)
test-vllm-engines: FILES := $(VLLM_ENGINES)
test-vllm-servers test-vllm-engines:
	GLMC_COMPILER=$$PWD/$(BIN)/python $(ENGINES)/vllm/bin/python $(ENGINE_TESTS) \
		$(FILES:%=tests/engines/vllm/test_%.py)

test-sglang: $(VENV)/.installed $(ENGINES)/sglang/.installed
	$(MAKE) --jobs=2 --keep-going --output-sync test-sglang-servers test-sglang-engines

# Both need what test-sglang makes.
test-sglang-servers: FILES := $(SGLANG_SERVERS)
test-sglang-engines: FILES := $(SGLANG_ENGINES)
test-sglang-servers test-sglang-engines:
	GLMC_COMPILER=$$PWD/$(BIN)/python $(ENGINES)/sglang/bin/python $(ENGINE_TESTS) \
		$(FILES:%=tests/engines/sglang/test_%.py)

# The tests inside the releases of MATRIX, which are laid over the environments of the newest ones; all
# releases are read for what the adapters use, and docs/engine_releases.md is written.
engine-matrix: $(VENV)/.installed-dev $(ENGINES)/vllm/.installed $(ENGINES)/sglang/.installed $(MATRIX_WHEELS)
	$(BIN)/python -m tools.engine_releases --wheels $(ENGINE_WHEELS) --read vllm --read sglang \
		$(MATRIX:%=--run %) $(MATRIX_FILES:%=--only %)

# Every preset and shipped model, for every target: whether a plan differs from its stored digest.
plans: $(VENV)/.installed-dev
	$(BIN)/python -m tools.plan_replay

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .versions $(ENGINES) out .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist *.egg-info runtime/build runtime/dist */*.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Modules are compiled when they are first imported, which most of torch and triton never is.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml runtime/pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable 'runtime[text]' --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed runtime/glmc_engines/pyproject.toml
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]' --editable runtime/glmc_engines
	touch $@

.versions/transformers-%/.installed: $(VENV)/bin/python
	$(BIN)/pip install --quiet --no-compile --target $(@D) transformers==$*
	touch $@

.versions/torch-%/.installed: $(VENV)/bin/python
	$(BIN)/pip install --quiet --no-compile --target $(@D) torch==$* transformers==$(NEWEST)
	touch $@

$(ENGINES)/%/bin/uv:
	$(PYTHON) -m venv $(ENGINES)/$*
	$(@D)/pip install --quiet --no-compile uv==$(UV)

# uv downloads and unpacks beside each other what pip does one after the other, and keeps it unpacked.
# It reads none of pip's configuration: where wheels lie, such as a torch for CPUs, is told to it.
# Modules are compiled here, as each process of an engine would do it where it may not write.
UV_PIP = UV_FIND_LINKS="$${UV_FIND_LINKS-$$PIP_FIND_LINKS}" UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=$(@D) \
	$(@D)/bin/uv --quiet pip

# vLLM without kernels: nothing is compiled. pip compares the version of the result with that of the
# archive, so the build must not add to it.
$(ENGINES)/vllm/.build-tools: tools/engine_environments/vllm.txt | $(ENGINES)/vllm/bin/uv
	$(UV_PIP) install --requirement $<
	touch $@

$(ENGINE_WHEELS)/vllm-%.built: | $(ENGINES)/vllm/.build-tools
	VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$* $(ENGINES)/vllm/bin/pip wheel --quiet --no-deps \
		--no-build-isolation --no-binary vllm --wheel-dir $(@D) vllm==$*
	touch $@

OURS := runtime/pyproject.toml runtime/glmc_engines/pyproject.toml tools/engine_environments/tests.txt
WITH_OURS := --requirement tools/engine_environments/tests.txt --editable runtime --editable runtime/glmc_engines

# The torchvision of the package index is for CUDA, and fails beside a torch for CPUs.
$(ENGINES)/vllm/.installed: $(ENGINE_WHEELS)/vllm-$(VLLM).built $(ENGINES)/vllm/.build-tools $(OURS)
	$(UV_PIP) install --requirement tools/engine_environments/vllm.txt $(ENGINE_WHEELS)/vllm-$(VLLM)-*.whl
	$(UV_PIP) uninstall torchvision torchaudio torchcodec
	$(UV_PIP) install $(WITH_OURS)
	touch $@

$(ENGINES)/sglang/.installed: tools/engine_environments/sglang.txt $(OURS) | $(ENGINES)/sglang/bin/uv
	$(UV_PIP) install --requirement $<
	$(UV_PIP) install --no-deps sglang==$(SGLANG) xgrammar==0.2.1 apache-tvm-ffi==0.1.11
	$(UV_PIP) install $(WITH_OURS)
	touch $@

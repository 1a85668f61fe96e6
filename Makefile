# `make demo` and `make test` are each enough on a fresh machine with Python 3.11 or later: they create .venv, install
# with pinned constraints, and run. A stamp file per set of packages makes repeating them cost seconds.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# One thread a process: pytest runs one process a core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -q

.PHONY: demo test test-slow test-any-processor lint types docs format clean

demo: $(VENV)/.all
	$(BIN)/pauca demo

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" tests

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow tests

# The kernels of events as a processor without any vector units but the oldest would run them.
test-any-processor: $(VENV)/.dev
	NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES= $(PYTEST) -m "not slow" tests/events

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pauca needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each stamp's name is the extra that it stands for.
$(VENV)/.all $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

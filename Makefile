# Two commands on a machine with only Python 3.11 and make: `make demo` and `make test`.
# Both create .venv first; one that was left half-made, or whose Python is gone, is made anew.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# torch stands in the same pip command as the package, pinned: left to itself pip takes the newest, with gigabytes of CUDA.
TORCH := $(shell grep '^torch==' constraints.txt)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(TORCH)
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

ifneq ($(shell $(BIN)/python -c 'print("alive")' 2>/dev/null),alive)
$(shell rm -f $(VENV)/.installed*)
endif

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/syncyte demo --out demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

clean:
	rm -rf $(VENV) demo build dist docs/_build .pytest_cache .mypy_cache .ruff_cache

# The stamp goes first and comes back last, so an installation that was killed is noticed at the next call.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "syncyte needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if [ -e $@ ]; then rm -f $(VENV)/.installed*; else \
		echo "Creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV) || { \
		echo "Python cannot create environments here. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; fi
	$(PIP_INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@rm -f $<
	$(PIP_INSTALL) -e '.[test,$*]'
	@touch $< $@

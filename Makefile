# make demo   the whole way on data that ships with scikit-learn
# make test   lint, types and tests
# make test-engines   one job on every engine that can be had here: the same bytes
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-engines lint clean

demo: $(VENV)/.installed
	$(BIN)/headrace demo --output headrace-demo

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile --ignore=tests/engines

test-engines: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/engines

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 to 3.13: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) headrace-demo build *.egg-info

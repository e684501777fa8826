PYTHON ?= python3
VENV ?= .venv
SLICER_CORE ?= 5.13.31053.0
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slicer test-slow fuzz lint wheel docs benchmark clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python Testing/demo.py

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' --ignore=Testing/slicer

$(VENV)/.ready-slicer: $(VENV)/.ready
	$(INSTALL) -e '.[dev,slicer]' slicer-core==$(SLICER_CORE)
	touch $@

test-slicer: $(VENV)/.ready-slicer
	$(BIN)/python -m pytest -m 'not slow' Testing/slicer Testing/repository/test_packaging.py

test-slow: $(VENV)/.ready-slicer
	$(BIN)/python -m pytest -m slow

fuzz: $(VENV)/.ready
	PYTHONPATH=.:Testing $(BIN)/python -W ignore Testing/fuzz.py $(FILES) $(SEED)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(VENV)/.ready
	$(BIN)/python -m pytest Testing/repository/test_wheel.py

benchmark: $(VENV)/.ready
	$(BIN)/python Testing/benchmarks/run.py $(or $(LABELMAPS),$(error say where the label maps are: make benchmark LABELMAPS=DIR))

docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.ready-docs: $(VENV)/.ready
	$(INSTALL) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

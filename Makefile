PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint benchmark clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python Testing/demo.py

test: $(VENV)/.ready
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: $(VENV)/.ready
	$(BIN)/python Testing/benchmarks/run.py

clean:
	rm -rf $(VENV) build *.egg-info

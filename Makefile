# Every target installs what it needs into .venv first; only Python 3.11+, pip and make are assumed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check format benchmark

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/lightning fit --config experiments/quickstart.yaml

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every figure of the README's sections on speed and formats. Formats whose extra is in .venv are measured, too.
benchmark: install
	$(BIN)/python -m benchmarks.readme

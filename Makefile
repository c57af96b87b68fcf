# Every target installs what it needs into .venv first; only Python 3.11+, pip and make are assumed.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# One thread for each of two processes: threads that wait for each other on busy cores are ten times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: install demo check test slow minimum extras libraries litert no-numba gpu format benchmark faults

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/lightning fit --config experiments/quickstart.yaml

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

test: install
	$(PYTEST)

slow: install
	$(PYTEST) -m slow

# On a machine with a GPU: its tests and the figures of CUDA, in nine minutes, into runs/gpu.
gpu: install
	$(BIN)/python -m benchmarks.gpu

# Without Numba the inside of the mixers runs in plain operators.
no-numba:
	$(PYTHON) -m venv .venv-no-numba
	.venv-no-numba/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[dev]"
	.venv-no-numba/bin/python -m pip uninstall --quiet --yes numba llvmlite
	OMP_NUM_THREADS=1 .venv-no-numba/bin/python -m pytest -n 2 tests/mobilemamba tests/lightning_modules

# The lowest versions that pyproject.toml allows and pip finds together.
minimum:
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/python $(PIP_INSTALL) -c constraints-minimum.txt -e ".[dev]"
	OMP_NUM_THREADS=1 .venv-minimum/bin/python -m pytest -n 2 -W default tests/mobilemamba tests/datamodules tests/lightning_modules

# The export formats that can be installed beside each other with the versions of constraints.txt.
extras:
	$(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[dev,openvino,executorch]"
	OMP_NUM_THREADS=1 .venv-extras/bin/python -m pytest -n 2 tests/mobilemamba/export tests/benchmarks

# Dense tasks with their libraries, and chunks in object storage, of which the tests start a server.
libraries:
	$(PYTHON) -m venv .venv-libraries
	.venv-libraries/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[dev,dense]" "moto[s3,server]"
	OMP_NUM_THREADS=1 .venv-libraries/bin/python -m pytest -n 2 tests/datamodules tests/mobilemamba/test_libraries.py \
		tests/mobilemamba/export tests/lightning_modules tests/experiments

# LiteRT needs an older typing-extensions than the versions of constraints.txt take: pip chooses others here.
litert:
	$(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python $(PIP_INSTALL) -e ".[dev,litert]"
	OMP_NUM_THREADS=1 .venv-litert/bin/python -m pytest -n 2 -W default tests/mobilemamba/export/test_formats.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every figure of the README's sections on speed and formats, and of docs/loading.md. Formats whose extra is in .venv are
# measured, too; likewise chunks and object storage where LitData and moto are.
benchmark: install
	$(BIN)/python -m benchmarks readme
	$(BIN)/python -m benchmarks loading --document docs/loading.md

# What a run survives: faults at random places, each compared with a run without any.
faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks faults

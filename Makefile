# `make demo` and `make test` each work alone on a machine with Python >= 3.11, make, git and PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
STAMP := $(VENV)/.installed

export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: venv demo check test test-slow test-faults lint wheels bench clean

venv: $(STAMP)

# Entry points are read from installed metadata, so a changed pyproject.toml means installing again.
$(STAMP): pyproject.toml $(PLUGINS) constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[dev]' $(foreach plugin,$(PLUGINS),--editable $(dir $(plugin)))
	@touch $(STAMP)

demo: venv
	$(BIN)/python tools/train.py configs/demo/dinov3_sop.py --overwrite

# The fast loop: lint, and the tests of single parts of the core (tests/unit_tests.py chooses them)
check: lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests --unit -n 2 --dist worksteal

test: venv
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: venv
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not faults"

test-faults: venv
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/faults tests/processes -m "faults or not faults"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m mypy

# Install them anywhere, in one go: pip install --find-links dist 'vision-encoder-toolbox[all]'
WHEELS ?= dist
wheels: venv
	rm -f $(WHEELS)/vision_encoder_toolbox*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir $(WHEELS) \
		. $(dir $(PLUGINS))

bench: venv
	$(BIN)/python tools/benchmark.py discovery
	$(BIN)/python tools/benchmark.py cache
	$(BIN)/python tools/benchmark.py alignment
	$(BIN)/python tools/benchmark.py engine
	$(BIN)/python tools/benchmark.py loader
	$(BIN)/python tools/benchmark.py throughput
	$(BIN)/python tools/benchmark.py recall
	$(BIN)/python tools/benchmark.py image_text_recall
	$(BIN)/python tools/benchmark.py rerank
	$(BIN)/python tools/benchmark.py grad_cache
	$(BIN)/python tools/benchmark.py quantize
	$(BIN)/python tools/benchmark.py ablation

clean:
	rm -rf $(VENV) dist work_dirs data/glyphs_*

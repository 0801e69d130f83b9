# make tour | test | ci | notebooks | bench      Each makes .venv and installs what it needs.
# On Windows, or with an environment of your own, use the pip lines of the README.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ONE_THREAD = OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: tour test ci notebooks bench

tour: $(VENV)/installed-run
	$(BIN)/minqwen tour

test: $(VENV)/installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow"

ci:
	bash .ci/run

notebooks: $(VENV)/installed-notebooks
	$(BIN)/jupyter lab notebooks

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.run

# one known version of the rival; on Linux pip may bring a CUDA build, which does no harm
$(VENV)/installed-bench: TORCH = $(BIN)/python -m pip install --quiet torch==2.13.0

$(VENV)/installed-%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

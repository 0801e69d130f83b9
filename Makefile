# make tour | test | ci | notebooks | docs | bench | load | gpu      Each makes .venv and installs what it needs.
# On Windows, or with an environment of your own, use the pip lines of the README.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ONE_THREAD = OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: tour test ci notebooks docs bench load gpu

tour: $(VENV)/installed-run
	$(BIN)/minqwen tour

test: $(VENV)/installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

ci:
	bash .ci/run

notebooks: $(VENV)/installed-notebooks
	$(BIN)/jupyter lab notebooks $(JUPYTER)

docs: $(VENV)/installed-docs,notebooks
	$(ONE_THREAD) $(BIN)/python -m sphinx -q -j 2 -W --keep-going -d docs/_build/doctrees -c docs . docs/_build/html
	@echo "docs/_build/html/docs/index.html"

# two runs that may miss a goal, growth, then the page; the last line says what was missed
bench: $(VENV)/installed-bench
	-$(BIN)/python -m benchmarks.run --threads 1 --json build/bench/threads-1.json
	-$(BIN)/python -m benchmarks.run --threads 2 --json build/bench/threads-2.json
	$(BIN)/python -m benchmarks.growth --json build/bench/growth.json
	$(BIN)/python -m benchmarks.run --docs build/bench/threads-1.json build/bench/threads-2.json build/bench/growth.json

load: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.load soak --write-docs
	$(BIN)/python -m benchmarks.load prompt --write-docs

gpu: $(VENV)/installed-test,bench,gpu
	$(BIN)/python -m pytest tests/gpu -rs
	$(BIN)/python -m benchmarks.gpu --docs

# one known version of the rival; on Linux pip may bring a CUDA build, which does no harm
$(VENV)/installed-bench $(VENV)/installed-test,bench,gpu: TORCH = $(BIN)/python -m pip install --quiet torch==2.13.0

$(VENV)/installed-%: setup.cfg pyproject.toml
	@echo "installing into $(VENV): a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

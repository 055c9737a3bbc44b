# make demo     a dozen pictures asked through edge and server, on an embedded model (MODEL=demo-qwen: the second)
# make demo-stream  a minute of a moving camera through edge, site and cloud, live and as a film
# make test     the tests, but for the slow ones, in two processes of a thread each (JOBS=4: in four)
# make test-all  all tests, as continuous integration runs them
# make test-vllm  the tests that need vLLM, in an environment of its own (VLLM=folder)
# make check    lint, format and types
# make bench    a quick measurement of accuracy and retransmission
# make figures  the documents' tables and plots, from the committed results and logs
# make gpu-check  everything that needs a GPU: tests, compute-sanitizer, times; results in OUT (out/gpu-check)
# make clean    remove what the others left, but for the environment
#
# Each sets up .venv first if a pyproject.toml or constraints.txt is newer. Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

VLLM ?= .venv-vllm
OUT ?= out/gpu-check
MODEL ?= demo
JOBS ?= 2

.PHONY: demo demo-stream test test-all test-vllm check bench figures gpu-check clean

demo: $(READY)
	$(BIN)/secondlook demo --model $(MODEL)

demo-stream: $(READY)
	$(BIN)/secondlook demo-stream

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --max-worker-restart=0 -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -q

test-vllm: $(VLLM)/.ready
	SECONDLOOK_REQUIRE_VLLM=1 $(VLLM)/bin/python -m pytest -q -m needs_vllm tests/engine/test_*vllm*.py

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/secondlook eval signs --seed 1 --count 200 --json

figures: $(READY)
	$(BIN)/python -m secondlook.benchmarks.report.figures

gpu-check: $(READY)
	$(BIN)/python tests/gpu_check.py --out $(OUT)

clean:
	rm -rf build dist out *.egg-info edge/build edge/dist edge/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find edge kernels engine export benchmarks training tests -name __pycache__ -type d -prune -exec rm -rf {} +

# vLLM for CPUs with what it needs, this package beside it, and the little that the two do not share; all without
# asking for dependencies, for each of the two names others.
$(VLLM)/.ready: benchmarks/peers/install-vllm.sh benchmarks/peers/requirements-vllm.txt constraints.txt
	PYTHON=$(PYTHON) benchmarks/peers/install-vllm.sh $(VLLM)
	$(VLLM)/bin/python -m pip install --no-deps -c constraints.txt \
		fastapi-offline hypothesis iniconfig pluggy pytest sortedcontainers
	$(VLLM)/bin/python -m pip install --no-deps --no-build-isolation -e .
	$(VLLM)/bin/python -m pip install --no-deps --no-build-isolation -e ./edge
	@touch $@

# The marker is written last: an installation that was interrupted is done again. pip and setuptools come first, at
# their pinned versions, because the editable installation is built with them. secondlook brings a copy of the edge,
# which its own editable installation then replaces: pip refuses both in one command.
$(READY): pyproject.toml edge/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "secondlook needs Python 3.10 or newer, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1);" \
			"name another, such as: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip setuptools
	@echo "installing secondlook and what it needs into $(VENV): a few minutes, once"
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e ./edge
	@touch $@

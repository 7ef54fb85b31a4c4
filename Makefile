# Two commands: `make conform` judges every device of this machine, `make test` checks the project.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXTRAS := conformance,cpu,opencl

.PHONY: conform test compile-check lint format clean pycuda simulate evidence mutation \
	mutation-slice branches seeds blind bits lowest

conform: $(VENV)/.run
	$(BIN)/tensorbus conform --level smoke

test: lint pycuda
	$(BIN)/python -m pytest -n auto --dist loadgroup -q
	$(MAKE) compile-check
	$(MAKE) simulate

# The smoke level on simulated drivers; cuda's needs pycuda and is left out, and said to be, without.
simulate: pycuda
	devices=rocm,metal; \
	if $(BIN)/python -c 'import importlib.util as u; raise SystemExit(not u.find_spec("pycuda"))'; \
	then devices=cuda,$$devices; else echo "not run: simulated cuda (pycuda is not installed)"; fi; \
	TENSORBUS_SIMULATE=cuda,rocm,metal $(BIN)/tensorbus conform --level smoke --device $$devices

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every kernel through NVRTC, hiprtc and the MSL check; where none is installed (3), it says so.
# Less, in a hurry: make test CHECK='--level smoke'
compile-check: $(VENV)/.test
	$(BIN)/tensorbus compile-check $(CHECK) || [ $$? = 3 ]

# For the simulated NVIDIA driver; says in one line why not where it cannot be had.
pycuda: $(VENV)/.test
	$(BIN)/python -m tensorbus_cuda.simulator.build_pycuda

# On a machine with an NVIDIA GPU: all that has to be shown on one, into docs/evidence.
evidence: pycuda
	$(BIN)/python benchmarks/hardware.py --out docs/evidence

# Hundreds of mutants of the sources, drawn by the commit (hours); the report goes into docs/.
MUTANTS ?= 600
mutation: $(VENV)/.test
	$(BIN)/tensorbus conform --mutate --sample $(MUTANTS) --level standard \
		--json reports/mutation.json --markdown docs/mutation.md

# The same for what these few ops go through, judged by them alone: at most two minutes.
mutation-slice: $(VENV)/.test
	$(BIN)/tensorbus conform --mutate dispatcher/tensorbus/_promotion.py \
		dispatcher/tensorbus/_sizes.py dispatcher/tensorbus/_family.py \
		dispatcher/tensorbus/_layout.py dispatcher/tensorbus/ops/reduction.py \
		dispatcher/tensorbus/ops/cumulative.py dispatcher/tensorbus/ops/matrix.py \
		backends/tensorbus_backends/kernels backends/tensorbus_backends/clike.py \
		--ops add,where,sum,matmul,cumulative_sum,take --sample 20 --seed 1 --level smoke \
		--least 0.25 --report reports

# Many seeds on a device that is right: false alarms, and what comes within 2% of its bound.
SEEDS ?= 200
seeds: $(VENV)/.test
	$(BIN)/python benchmarks/seeds.py --seeds $(SEEDS)

# Branches on the way of a call that the judge takes.
branches: $(VENV)/.test
	$(BIN)/tensorbus conform --mutate --coverage --level standard --markdown docs/branches.md

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS),test]'
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) reports build dist

# The faults that were thought up without sight of the samples, planted and judged again.
blind: $(VENV)/.test
	$(BIN)/python benchmarks/blind_faults.py --level smoke,standard

# Digests of ops and calls that have none yet; others change with a new version of docs/order.md.
bits: $(VENV)/.test
	$(BIN)/python -m tensorbus_conformance.bits --record
	$(BIN)/python -m tensorbus_conformance.bits --check

# The oldest dependencies that pyproject.toml allows, in an environment of their own: the contract,
# ops, transfers and devices that are here, in a few minutes.
LOWEST ?= .lowest
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest.py $(EXTRAS),test > $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	$(LOWEST)/bin/python -m pip check
	$(LOWEST)/bin/python -m pytest -q -p no:cacheprovider backends/tests/test_negotiation.py \
		backends/tests/test_kernels.py dispatcher/tests/test_dlpack.py \
		dispatcher/tests/test_elementwise.py dispatcher/tests/test_reduction.py cpu/tests opencl/tests
	$(LOWEST)/bin/tensorbus conform --device ref,cpu --level smoke --ops add,exp,sum,matmul,sort

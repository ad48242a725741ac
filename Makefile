# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each makes its environment in .venv from what pyproject.toml names; nothing is installed by hand.
PYTHON ?= python3
# Settings of Python and of BLAS from outside do not reach the programs below: results must not depend on them.
# PYTHON itself chooses the interpreter here and is not passed on.
unexport $(filter PYTHON% OPENBLAS% OMP% MKL%,$(.VARIABLES))
VENV ?= .venv
# Optional parts that the environment below installs. Tests of these parts fail instead of being skipped.
REQUIRE ?= native,keras,bundled$(if $(filter Linux,$(shell uname -s)),$(comma)nvrtc)
comma := ,
# For `make gpu`: the CUDA version of the driver, 12 or 13. With OFFLINE=1, the packages of PYTHON are used and
# nothing is downloaded.
CUDA ?= 13
GPU_SECONDS ?= 420
GPU_STAGES ?= tests benchmarks report memcheck racecheck
# Number of processes of `make test`.
JOBS ?= 2
# If a test hangs or ends its process, its name is printed and the run fails. Workers are not restarted, because
# xdist may then wait for ever.
HANGS := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true
GUARDS := --max-worker-restart 0 $(HANGS)
SANITIZERS ?= none address,undefined thread
# Duration of `make fuzz`.
FUZZ_SECONDS ?= 600
# `make test` measures line coverage, by the first case of each test, and fails below this percentage. COVERAGE=0
# turns it off.
LEAST_COVERAGE ?= 88
COVERAGE ?= 1
COVERAGE_CORE = $(shell $(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')
COVERED = $(filter 1,$(COVERAGE))
BIN := $(VENV)/bin
CPP := $(shell find csrc medvlad tests \( -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' \) -not -name _blas.cpp)
SOURCES := pyproject.toml setup.py $(shell find csrc medvlad -type f -not -name '*.pyc' -not -name '*.so' -not -name '_blas.cpp')

.PHONY: demo help test test-slow test-torch docs gpu bench bench-quick bench-compare soak faults lint tidy format sanitize sanitize-python \
  sanitize-kernels valgrind fuzz clean

demo: $(VENV)/.demo  ## Run the demo: compare average pooling and VLAD on simulated images (the default)
	$(BIN)/medvlad demo

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1@\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS=@ read -r name text; do \
	  printf '%-18s %s\n' "$$name" "$$text"; done

test: $(VENV)/.test  ## Run the tests except the slow ones, and print the line coverage
	$(BIN)/pytest benchmarks --benchmark-disable --quiet
	$(if $(COVERED),COVERAGE_FILE=$(VENV)/.coverage COVERAGE_CORE=$(COVERAGE_CORE)) MEDVLAD_REQUIRE=$(REQUIRE) \
	  $(BIN)/pytest $(GUARDS) -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	  $(if $(COVERED),--cov --cov-report=xml:$(VENV)/coverage.xml --cov-fail-under=$(LEAST_COVERAGE))

# In an environment of its own, so that the other tests run without torch. A CPU build of torch takes 0.8 GB. If pip
# finds none, it takes a CUDA build of several gigabytes; PIP_EXTRA_INDEX_URL may name an index of CPU builds.
test-torch:  ## Run the tests of networks of timm and PyTorch
	$(MAKE) VENV=$(VENV)-torch $(VENV)-torch/.torch
	$(VENV)-torch/bin/pytest -q $(HANGS) -m torch tests/extraction/test_torch_networks.py

test-slow: $(VENV)/.test  ## Run the tests that take more than about ten seconds each
	MEDVLAD_REQUIRE=$(REQUIRE) $(BIN)/pytest $(GUARDS) -n $(JOBS) --dist loadscope -m slow

# Warnings are errors, for example links without a target.
docs: $(VENV)/.docs  ## Build the documentation in build/docs
	$(BIN)/sphinx-build -q -W --keep-going -n -d build/doctrees docs build/docs

# Runs the tests marked gpu, the benchmarks, the report to benchmarks/results, and compute-sanitizer (if installed).
# Each stage has a time limit, and a failure does not stop the later ones. Results are copied to the folder OUT, if
# it is set. GPU_STAGES selects stages. GPU_SECONDS limits all of them together.
gpu: $(VENV)/.gpu  ## Run the tests and benchmarks of the cuda backend on a machine with a GPU
	$(BIN)/python -P tests/support/gpu_run.py --seconds $(GPU_SECONDS) --stages "$(GPU_STAGES)" $(if $(BENCH),-- $(BENCH))

# Select benchmarks with BENCH='-k synthetic' or BENCH='--threads 1,2 --kmeans-rows 20000'.
bench: $(VENV)/.bench  ## Run the benchmarks (long)
	$(BIN)/pytest benchmarks --benchmark-columns=min,median,max --benchmark-json=benchmarks/out.json $(BENCH)
	$(BIN)/python benchmarks/report.py benchmarks/out.json -o benchmarks/out.md

# Two cores need about five minutes. The status is 1 if a public call takes more than 1.1 times as long as its kernel.
# benchmarks/README.md says how the result gets into the README.
bench-quick: $(VENV)/.bench  ## Time the public calls beside their fastest rivals (five minutes)
	$(BIN)/python benchmarks/quick.py -o benchmarks/out.quick.json $(BENCH)

# Builds both versions and runs them in turn. A difference counts only if it exceeds the noise of the run.
bench-compare: $(VENV)/.bench  ## Compare the speed of the working tree with the commit BASE
	$(BIN)/python benchmarks/compare.py $(or $(BASE),$(error give BASE=COMMIT)) $(BENCH)

soak: $(VENV)/.test  ## Check that memory does not grow in an hour (MINUTES=60) of mixed work
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),60) -o benchmarks/out.soak.json --figure benchmarks/out.soak.png

lint: $(VENV)/.dev  ## Check style, types, spelling and the order of imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run --Werror $(CPP)

tidy: $(VENV)/.dev  ## Check the C++ core with clang-tidy
	$(BIN)/python csrc/test/tidy.py

format: $(VENV)/.dev  ## Format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# SANITIZERS=none runs the programs without sanitizers. LEVELS selects instruction sets.
sanitize:  ## Run the C++ test programs with AddressSanitizer, UBSan and ThreadSanitizer
	$(PYTHON) csrc/test/sanitize.py $(SANITIZERS) $(if $(LEVELS),--levels $(LEVELS))

# LEVELS selects instruction sets and K selects tests. CI runs one level, and the tests that pass arrays to the core.
sanitize-python: $(VENV)/.test  ## Run Python tests of the extension modules with the sanitizers
	$(BIN)/python csrc/test/sanitize_python.py $(filter-out none,$(SANITIZERS)) $(if $(LEVELS),--levels $(LEVELS)) $(if $(K),-k '$(K)')

# Valgrind finds the use of uninitialised memory, which the sanitizers do not. PARTS is core_test, smoke or both.
valgrind: $(VENV)/.test  ## Run the portable core with valgrind, from C++ and from Python
	$(BIN)/python csrc/test/valgrind.py $(PARTS)

# Half of FUZZ_SECONDS goes to the C++ core (libFuzzer if clang is installed). The other half goes to the readers of
# files and arguments (hypothesis and atheris). Inputs that fail are kept in build/fuzz.
fuzz: $(VENV)/.fuzz  ## Test with random and malformed input for FUZZ_SECONDS
	$(PYTHON) csrc/test/fuzz.py $$(( $(FUZZ_SECONDS) / 2 ))
	FUZZ_EXAMPLES=$$(( $(FUZZ_SECONDS) * 2 )) $(BIN)/pytest -q -s tests/robustness/test_fuzz.py
	$(BIN)/python -P tests/support/fuzz/guided.py $$(( $(FUZZ_SECONDS) / 4 ))

# Each CUDA thread is a thread of the host.
sanitize-kernels: $(VENV)/.test  ## Run the CUDA kernels on the host with ThreadSanitizer
	$(BIN)/pytest -q -m sanitize tests/backends/test_kernels.py

faults: $(VENV)/.test  ## Kill and interrupt commands at hundreds of random moments
	$(BIN)/pytest $(HANGS) -q -s -m faults tests/robustness

clean:  ## Remove the environment and all build results
	rm -rf $(VENV) $(VENV)-torch build dist medvlad-demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("medvlad needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package is installed from a wheel, so that the tests see what a user gets. All environments share one wheel.
# It also has the module for tests that emulates instructions (csrc/simd/tiles.hpp).
$(VENV)/.package: $(VENV)/.python $(SOURCES)
	rm -rf build $(VENV)/wheel
	@echo "Compiling the extension modules. This takes about a minute on an idle machine."
	MEDVLAD_EMULATED=1 $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/*.whl
	touch $@

EXTRAS_OF_demo := tensorflow,openvino,offline,report
EXTRAS_OF_test := tensorflow,openvino,distributed,medical,offline,onnx,bags,tables,report,fetch,test
EXTRAS_OF_fuzz := $(EXTRAS_OF_test),fuzz
EXTRAS_OF_torch := onnx,torch,test-torch
EXTRAS_OF_docs := docs
EXTRAS_OF_bench := tensorflow,openvino,offline,bench
EXTRAS_OF_dev := dev,test

$(VENV)/.demo $(VENV)/.test $(VENV)/.fuzz $(VENV)/.torch $(VENV)/.docs $(VENV)/.bench $(VENV)/.dev: $(VENV)/.%: $(VENV)/.package
	@echo "Installing packages. This takes one to three minutes."
	$(BIN)/python -m pip install --quiet "$$(echo $(VENV)/wheel/*.whl)[$(EXTRAS_OF_$*)]"
	touch $@

# With OFFLINE=1, the new environment reads the packages of PYTHON, pip included, through a file .pth. The option
# --system-site-packages would not do: if PYTHON is in an environment, it adds the packages of the Python below that.
PARENT := 'import site; [print(f"import site; site.addsitedir({p!r})") for p in site.getsitepackages()]'
$(VENV)/.gpu: $(SOURCES)
	rm -rf build
	$(PYTHON) -m venv $(if $(OFFLINE),--without-pip) $(VENV)
	$(if $(OFFLINE),$(PYTHON) -c $(PARENT) > "$$(echo $(VENV)/lib/python3*/site-packages)/parent.pth")
	$(BIN)/python -m pip install --quiet $(if $(OFFLINE),--no-index --no-deps --no-build-isolation .,'.[cuda$(CUDA),bench,test]')
	touch $@

# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each makes its environment in .venv from what pyproject.toml names; nothing is installed by hand.
PYTHON ?= python3
# Settings of Python and of BLAS from outside do not reach the programs below: results must not depend on them.
# PYTHON itself chooses the interpreter here and is not passed on.
unexport $(filter PYTHON% OPENBLAS% OMP% MKL%,$(.VARIABLES))
VENV ?= .venv
# What must not be skipped: everything that the environment below installs.
REQUIRE ?= native,keras,bundled$(if $(filter Linux,$(shell uname -s)),$(comma)nvrtc)
comma := ,
# For `make gpu`: the driver's CUDA, 12 or 13. OFFLINE=1 takes what PYTHON has installed instead of an index.
CUDA ?= 13
# Processes of `make test`.
JOBS ?= 2
# A test that hangs or ends its process is named and ends the run with a failure: what xdist does with the rest of
# a process that it has started again may wait for ever.
HANGS := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true
GUARDS := --max-worker-restart 0 $(HANGS)
SANITIZERS ?= none address,undefined thread
# Of `make fuzz`.
FUZZ_SECONDS ?= 600
BIN := $(VENV)/bin
CPP := $(shell find csrc medvlad tests \( -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' \) -not -name _blas.cpp)
SOURCES := pyproject.toml setup.py $(shell find csrc medvlad -type f -not -name '*.pyc' -not -name '*.so' -not -name '_blas.cpp')

.PHONY: demo test test-slow docs gpu bench bench-compare soak faults lint tidy format sanitize sanitize-python sanitize-kernels \
  valgrind fuzz clean

demo: $(VENV)/.demo
	$(BIN)/medvlad demo

test: $(VENV)/.test
	$(BIN)/pytest benchmarks --benchmark-disable --quiet
	MEDVLAD_REQUIRE=$(REQUIRE) $(BIN)/pytest $(GUARDS) -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The tests that take more than about ten seconds each.
test-slow: $(VENV)/.test
	MEDVLAD_REQUIRE=$(REQUIRE) $(BIN)/pytest $(GUARDS) -n $(JOBS) --dist loadscope -m slow

# Pages of docs/ in build/docs; warnings are errors, links that lead nowhere among them.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -n -d build/doctrees docs build/docs

# On a machine with a GPU: the kernels under compute-sanitizer where there is one, the tests marked gpu, and the
# benchmarks, whose results are written to benchmarks/results.
gpu: $(VENV)/.gpu
	if command -v compute-sanitizer; then for tool in memcheck racecheck; do \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python -P -m pytest -q -p no:cacheprovider -m gpu \
	    tests/backends/test_cuda.py -k "kinds_of_numbers or both_ways or distances" || exit 1; done; fi
	MEDVLAD_REQUIRE=native,cuda $(BIN)/python -P -m pytest -m gpu tests
	$(BIN)/python -P -m pytest benchmarks/test_gpu.py --benchmark-columns=min,median,max \
	  --benchmark-json=benchmarks/out.json $(BENCH)
	$(BIN)/python benchmarks/report.py benchmarks/out.json --gpu benchmarks/results

# Long; BENCH='-k synthetic', BENCH='--threads 1,2 --kmeans-rows 20000' and the like choose.
bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks --benchmark-columns=min,median,max --benchmark-json=benchmarks/out.json $(BENCH)
	$(BIN)/python benchmarks/report.py benchmarks/out.json -o benchmarks/out.md

# Is the working tree slower than BASE, a commit? Both are built and take turns; only what is beyond the noise of the
# run itself counts.
bench-compare: $(VENV)/.bench
	$(BIN)/python benchmarks/compare.py $(or $(BASE),$(error give BASE=COMMIT)) $(BENCH)

# An hour of mixed work in one process, whose memory must stay flat.
soak: $(VENV)/.test
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),60) -o benchmarks/out.soak.json --figure benchmarks/out.soak.png

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

# clang-tidy over the C++ core, by .clang-tidy.
tidy: $(VENV)/.dev
	$(BIN)/python csrc/test/tidy.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# The C++ core's own test program; "none" is the program alone. LEVELS chooses instruction sets.
sanitize:
	$(PYTHON) csrc/test/sanitize.py $(SANITIZERS) $(if $(LEVELS),--levels $(LEVELS))

# The extension modules under the same, from Python. LEVELS and K choose: what CI runs takes one level and the
# tests of whatever reads and writes memory by Python's word.
sanitize-python: $(VENV)/.test
	$(BIN)/python csrc/test/sanitize_python.py $(filter-out none,$(SANITIZERS)) $(if $(LEVELS),--levels $(LEVELS)) $(if $(K),-k '$(K)')

# Memory that was never written, which the sanitizers do not see: the portable core, alone and from Python.
# PARTS=smoke is the latter.
valgrind: $(VENV)/.test
	$(BIN)/python csrc/test/valgrind.py $(PARTS)

# Hostile input for about FUZZ_SECONDS: half of them the C++ core, by libFuzzer where there is clang; then readers of
# files and arguments, by hypothesis and by atheris. What fails is kept in build/fuzz.
fuzz: $(VENV)/.fuzz
	$(PYTHON) csrc/test/fuzz.py $$(( $(FUZZ_SECONDS) / 2 ))
	FUZZ_EXAMPLES=$$(( $(FUZZ_SECONDS) * 2 )) $(BIN)/pytest -q -s tests/robustness/test_fuzz.py
	$(BIN)/python -P tests/support/fuzz/guided.py $$(( $(FUZZ_SECONDS) / 4 ))

# The CUDA kernels on the host, a thread each of theirs, under ThreadSanitizer.
sanitize-kernels: $(VENV)/.test
	$(BIN)/pytest -q -m sanitize tests/backends/test_kernels.py

# The long form of tests/robustness/test_faults.py: hundreds of kills and interrupts at random moments.
faults: $(VENV)/.test
	$(BIN)/pytest $(HANGS) -q -s -m faults tests/robustness/test_faults.py

clean:
	rm -rf $(VENV) build dist medvlad-demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("medvlad needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Not editable: what is tested is what a user gets, compiled extensions and package data included. Built once,
# whatever is installed beside it.
$(VENV)/.package: $(VENV)/.python $(SOURCES)
	rm -rf build $(VENV)/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/*.whl
	touch $@

EXTRAS_OF_demo := tensorflow,offline,demo,report
EXTRAS_OF_test := tensorflow,openvino,distributed,medical,offline,onnx,demo,report,fetch,test
EXTRAS_OF_fuzz := $(EXTRAS_OF_test),fuzz
EXTRAS_OF_docs := docs
EXTRAS_OF_bench := tensorflow,openvino,bench
EXTRAS_OF_dev := dev,test

$(VENV)/.demo $(VENV)/.test $(VENV)/.fuzz $(VENV)/.docs $(VENV)/.bench $(VENV)/.dev: $(VENV)/.%: $(VENV)/.package
	$(BIN)/python -m pip install --quiet "$$(echo $(VENV)/wheel/*.whl)[$(EXTRAS_OF_$*)]"
	touch $@

$(VENV)/.gpu: $(SOURCES)
	rm -rf build
	$(PYTHON) -m venv $(if $(OFFLINE),--system-site-packages) $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(OFFLINE),--no-index --no-deps --no-build-isolation .,'.[cuda$(CUDA),bench,test]')
	touch $@

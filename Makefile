# One environment, .venv, made by `make setup`; every other target makes it first.
#   make demo    compress the model that ships with the project, and print the table
#   make test    the test suite, within minutes; make test-long adds the long tests and a load
#   make check   formatting, lint, types, import contracts
#   make help    the rest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
SOURCES := pyproject.toml constraints.txt $(shell find toolchain/ssmpress -name '*.py') \
	$(shell find runtimes -name '*.cc' -o -name '*.h' -o -name 'CMakeLists.txt' \
	-o -name '*.cmake')
CPP := $(shell find runtimes tests -name '*.cc' -o -name '*.h')
MAMBA_SSM := mamba-ssm==2.3.2.post1
# PyTorch without CUDA takes 0.8 GB; PyPI's build for x86-64 brings 5 GB of CUDA libraries.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Test runs share the cores with the processes they start: waiting threads sleep, not spin.
test test-long test-loaded: export OMP_WAIT_POLICY := PASSIVE
# Test files side by side; many of them wait for processes that they start.
PYTEST := $(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder
# Test files, all of them by default: make test TESTS=tests/prune
TESTS ?=

.PHONY: setup demo test test-long test-loaded test-kernels package-test docs check format bench bench-peers clean \
	help

help:
	@sed -n '2,5s/^# *//p' Makefile
	@echo "make test-loaded    the suite of make test beside four busy loops: no verdict hangs on speed"
	@echo "make test-kernels   every kernel against float64, long: under the sanitizers, arm64 in QEMU"
	@echo "make package-test   build wheel and sdist, install them in a fresh environment, run"
	@echo "make docs           the documentation as a site, in build/docs"
	@echo "make bench          kernels and the whole model, JSON in build/bench"
	@echo "make bench-peers    the same model in ONNX Runtime, OpenVINO and llama.cpp (builds that)"
	@echo "make clean          remove the environment and all build output"

$(STAMPS)/venv: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --retries 0 --timeout 5 --index-url $(TORCH_INDEX) torch 2> /dev/null || \
		{ echo "$(TORCH_INDEX) does not answer: torch comes from the configured index" && \
		$(PIP) torch; }
	$(PIP) scikit-build-core cmake ninja ziglang
	mkdir -p $(STAMPS) && touch $@

# The package is installed, not linked: the tests run what a user gets.
$(STAMPS)/package: $(STAMPS)/venv $(SOURCES)
	$(PIP) --no-build-isolation ".[compress,dev,docs]"
	touch $@

# The reference implementation, without its CUDA parts: only a test reads it.
$(STAMPS)/reference: $(STAMPS)/venv
	$(PIP) setuptools wheel packaging einops
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(PIP) --no-deps --no-build-isolation \
		$(MAMBA_SSM)
	touch $@

setup: $(STAMPS)/package

demo: setup
	$(BIN)/compress --demo --sparsity 0.7 --recover 160 --out build/demo

$(STAMPS)/kernels_test: $(STAMPS)/venv $(SOURCES) $(CPP)
	$(BIN)/cmake -S runtimes -B build/runtimes -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
		-DCMAKE_BUILD_TYPE=Release -DSSMPRESS_BUILD_TESTS=ON -DSSMPRESS_BUILD_BENCH=ON
	$(BIN)/cmake --build build/runtimes --target kernels_test read_bandwidth
	touch $@

test: setup $(STAMPS)/reference $(STAMPS)/kernels_test
	build/runtimes/kernels_test --cases 50
	$(PYTEST) -m "not slow" $(TESTS)

test-long: setup $(STAMPS)/reference $(STAMPS)/kernels_test
	build/runtimes/kernels_test --cases 2000
	$(PYTEST) $(TESTS)
	$(MAKE) test-loaded

# As on a machine that others use too; the loops end with the suite, whatever ends it.
test-loaded: setup $(STAMPS)/reference $(STAMPS)/kernels_test
	$(BIN)/python tests/loaded.py --loops 4 -- $(PYTEST) -m "not slow" $(TESTS)

test-kernels: $(STAMPS)/venv
	for preset in asan tsan; do \
		$(BIN)/cmake -S runtimes -B build/$$preset --preset $$preset \
			-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja && \
		$(BIN)/cmake --build build/$$preset --target kernels_test && \
		build/$$preset/kernels_test --cases 2000 || exit 1; \
	done
	for preset in arm64-zig arm64-gcc; do \
		$(BIN)/cmake -S runtimes -B build/$$preset --preset $$preset \
			-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja && \
		$(BIN)/cmake --build build/$$preset --target kernels_test || exit 1; \
		for isa in scalar neon dotprod; do \
			qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu build/$$preset/kernels_test \
				--cases 2000 --isa $$isa || exit 1; \
		done; \
	done

package-test: setup
	$(BIN)/python -m pytest tests/packaging/test_package.py

docs: setup
	$(BIN)/python docs/site/build.py build/docs

check: setup
	$(BIN)/ruff format --check toolchain runtimes tests docs
	$(BIN)/ruff check toolchain runtimes tests docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --style=file:runtimes/.clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff format toolchain runtimes tests docs
	$(BIN)/ruff check --fix toolchain runtimes tests docs
	$(BIN)/clang-format --style=file:runtimes/.clang-format -i $(CPP)

# The pruned model that gives the masks is too large for the repository: docs/benchmarks.md.
DENSE ?= ../shared/models/mamba-31m
PRUNED ?= ../shared/models/mamba-31m-70
TEXT ?= ../shared/data/wikitext103/test.detok.txt
CALIBRATION ?= ../shared/data/wikitext103/valid.detok.txt

.PHONY: bench-models
bench-models: setup $(STAMPS)/kernels_test
	$(BIN)/cmake --build build/runtimes
	mkdir -p build/bench
	$(BIN)/python runtimes/bench/bench_models.py --dense $(DENSE) --pruned $(PRUNED) --again \
		--out build/bench/models

bench: bench-models
	build/runtimes/bench_kernels > build/bench/kernels.json
	$(BIN)/python runtimes/bench/whole_model.py build/bench/whole_model.json

# The peers live in an environment of their own, which also sees the packages of the project's.
# llama.cpp is compiled for this machine; where its AMX kernels crash (a peer that fails is named in
# the result), PEER_CFLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" leaves them out.
PEERS := build/peers
PEER_CFLAGS ?=
$(PEERS)/ready: runtimes/bench/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	CFLAGS="$(PEER_CFLAGS)" CXXFLAGS="$(PEER_CFLAGS)" $(PEERS)/bin/python -m pip install --quiet \
		--disable-pip-version-check -r $<
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
		> $$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/project.pth
	touch $@

bench-peers: bench-models $(PEERS)/ready
	$(PEERS)/bin/python -m pytest tests/bench/test_bench_models.py
	$(PEERS)/bin/python runtimes/bench/bench_peers.py build/bench/peers.json
	$(PEERS)/bin/python runtimes/bench/bench_quality.py build/bench/quality_peers.json \
		--dense $(DENSE) --pruned 70=$(PRUNED) --text $(TEXT) --calibration $(CALIBRATION)

clean:
	rm -rf $(VENV) build

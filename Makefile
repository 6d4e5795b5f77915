# Every target sets up what it needs in .venv; a second run is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_VERSION := 26.3
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
HOST := 127.0.0.1
PORT := 8000
BUNDLES := bundles
# Such as --own-kernels, where cuBLAS and cuDNN are not installed.
GPU_OPTIONS :=
PROTO := service/rpc/gpusq/v1/vision.proto
SOURCES := contract compress service gpusq benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help demo test check fix test-plan test-system test-gpu test-cuda bundles bench proto constraints clean

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.venv: Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 10) <= v[:2] <= (3, 13) else f"expected Python 3.10 to 3.13, got {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip==$(PIP_VERSION)
	@touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing what compressing and serving need (once, some minutes) ..."
	$(INSTALL) --editable '.[client,compress,service]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(INSTALL) --group dev
	@touch $@

$(VENV)/.system: $(VENV)/.dev
	$(INSTALL) --group system
	@touch $@

demo: $(VENV)/.run  ## Compress a small Vision Transformer, then serve it and a photo classifier.
	$(BIN)/gpusq compress recipes/digits.yaml
	$(BIN)/gpusq serve --repository model_repository --host $(HOST) --port $(PORT)

test: $(VENV)/.dev  ## Run the tests that need neither a GPU nor a container.
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not slow'

check: $(VENV)/.dev  ## Check format, lint, types and the direction of imports.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

fix: $(VENV)/.dev  ## Format and mend what can be mended automatically.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

test-system: $(VENV)/.system  ## Run the slow tests, and those against a real Triton and a real browser.
	$(BIN)/python -m pytest -m slow
	GPUSQ_TEST_EXAMPLES=1000 $(BIN)/python -m pytest tests/service/test_openapi.py tests/service/test_oip_binary.py tests/contract/test_any_bytes.py
	$(BIN)/python -m pytest -m 'triton or browser' tests/system

$(VENV)-plan/.plan: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-plan
	$(VENV)-plan/bin/python -m pip install --quiet --disable-pip-version-check pip==$(PIP_VERSION)
	$(VENV)-plan/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[plan]' onnxruntime pytest
	@touch $@

# Without what it links, which is never called without a GPU.
$(VENV)-plan/.tensorrt-$(TENSORRT): $(VENV)-plan/.plan
	$(VENV)-plan/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  tensorrt==$(TENSORRT)
	@touch $@

.PHONY: plan-environment
plan-environment: $(VENV)-plan/.plan $(if $(TENSORRT),$(VENV)-plan/.tensorrt-$(TENSORRT))

test-plan: plan-environment  ## Test what runs on a Jetson, without PyTorch: make test-plan PYTHON=python3.10 [TENSORRT=8.6.0]
	$(VENV)-plan/bin/python -m pytest --noconftest tests/plan tests/contract

test-gpu:  ## Build, check and measure plans on this GPU: needs TensorRT, NumPy and onnx alone.
	$(PYTHON) -m benchmarks.gpu $(BUNDLES) $(GPU_OPTIONS)

test-cuda: $(VENV)/.dev  ## Run the tests that need PyTorch and an NVIDIA GPU.
	$(BIN)/python -m pytest -m gpu tests/system/test_gpu.py

bundles: $(VENV)/.run  ## Write what test-gpu measures: DeiT and Swin of random weights.
	$(BIN)/gpusq bench --export $(BUNDLES)

bench: $(VENV)/.run  ## Measure INT8 beside the other formats, on this GPU or this CPU.
	$(BIN)/gpusq bench

proto: $(VENV)/.dev  ## Generate the Python of the gRPC messages from their .proto.
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. $(PROTO)

constraints:  ## Resolve the pinned versions anew (needs uv).
	uv pip compile --quiet --universal --python-version 3.10 --all-extras --group dev --group system \
	  --constraint constraints.in --no-emit-index-url --no-header --no-annotate \
	  pyproject.toml --output-file constraints.new
	{ head -n 1 constraints.txt; awk '!/^(nvidia-|cuda-|triton==)/ || /^nvidia-(ml-py|modelopt)==/' constraints.new; } >constraints.tmp
	mv constraints.tmp constraints.txt && rm constraints.new

clean:  ## Remove the environment and every run.
	rm -rf $(VENV) $(VENV)-plan runs

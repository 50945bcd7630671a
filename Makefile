# Needs python3 (3.10 or newer, with venv) and make; everything else goes into .venv
# and, for tests/augment/test_addons.py alone, .venv-addons.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
GPU_STAMP := .venv/installed-gpu
ADDONS := .venv-addons
ADDONS_STAMP := $(ADDONS)/installed
INTEROP := .venv-interop
INTEROP_STAMP := $(INTEROP)/installed
WHEEL := .venv-wheel
MATRIX := .venv-matrix
# Small, and touches most packages that requirements.txt has a floor for.
MATRIX_TESTS := tests/losses tests/test_optimizers.py $(addprefix tests/,models/test_models.py data/test_images.py \
	evaluation/test_neighbours.py plots/test_plots.py training/test_gpu_kernels.py) \
	$(addprefix tests/tasks/test_,export.py::test_safetensors_hold_encoder_and_head_in_torchs_names \
	export.py::test_tflite_computes_the_same tasks.py::test_nothing_but_the_task_is_needed \
	tasks.py::test_a_resumed_run_equals_one_that_was_not_stopped)
ADDONS_FIT := import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 11)])
DEMO := logs/demo
RUN := $(BIN)/python main.py

.PHONY: help setup addons interop wheel matrix notebooks demo docs test test-fast test-gpu test-scripts lint format types clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(STAMP) $(if $(GPU),$(GPU_STAMP)) ## Make .venv and install the requirements; with GPU=1 CUDA's libraries, too

$(GPU_STAMP): $(STAMP) requirements-gpu.txt
	$(BIN)/python -m pip install --quiet -r requirements-gpu.txt
	@touch $@

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Expected Python 3.10 or newer as $(PYTHON). Run make PYTHON=python3.11, for instance."; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "Expected $(PYTHON) with venv. Install your system's python3-venv package."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $(STAMP)

addons: $(ADDONS_STAMP) ## Make .venv-addons, which tests/augment/test_addons.py compares with

# Never an error: where it cannot be made, this says why, and the test is skipped.
$(ADDONS_STAMP): requirements-addons.txt
	@for python in python3.11 python3.10 $(PYTHON); do \
		$$python -c '$(ADDONS_FIT)' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No $(ADDONS), tests/augment/test_addons.py is skipped: expected Python 3.10 or 3.11 with venv as" \
			"python3.11, python3.10 or $(PYTHON). Install one."; \
	elif $$python -m venv --clear $(ADDONS) && \
		$(ADDONS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<; then \
		touch $@; \
	else \
		rm -rf $(ADDONS); \
		echo "No $(ADDONS), tests/augment/test_addons.py is skipped: $$python could not install $< (see above)."; \
	fi

interop: $(STAMP) $(INTEROP_STAMP) ## Compare weights in and out with torchvision and timm, in .venv-interop
	@$(INTEROP)/bin/python -m pip list 2>/dev/null | grep -E '^(torch|torchvision|timm|safetensors|numpy) '
	$(BIN)/python -m pytest -rp -m torch tests/interop/test_interop.py tests/tasks/test_export.py

$(INTEROP_STAMP): requirements-interop.txt
	$(PYTHON) -m venv --clear $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet -r $<
	@touch $@

wheel: $(STAMP) ## Build the wheel into dist/ and try it in an environment of its own
	rm -rf build dist $(WHEEL)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir=dist .
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet dist/*.whl
	$(BIN)/python .ci/try_wheel.py $(WHEEL)
	rm -rf $(WHEEL)

matrix: ## Try one Python (PYTHON=python3.13) and the newest packages, or with FLOOR=1 the oldest
	$(PYTHON) -m venv --clear $(MATRIX)
	$(MATRIX)/bin/python -m pip install --quiet --upgrade pip
	$(if $(FLOOR),sed -n 's/>=/==/p' requirements.txt) > $(MATRIX)/floors.txt
	$(MATRIX)/bin/python -m pip install --quiet -r requirements.txt pytest -c $(MATRIX)/floors.txt
	@$(MATRIX)/bin/python -m pip list 2>/dev/null | grep -iE '^(tensorflow|keras|numpy) '
	$(MATRIX)/bin/python -m pytest -m "not slow" $(MATRIX_TESTS)

notebooks: $(STAMP) ## Run the notebooks and keep what they show
	PYTHONPATH=$(CURDIR) $(BIN)/python notebooks/execute.py

demo: $(STAMP) ## Pre-train, classify, segment, predict and compare on the built-in shapes (about 7 minutes on 2 cores)
	$(RUN) --task=pretrain --pretrain_save_path=$(DEMO)/pretrain --overwrite
	$(RUN) --task=classification --freeze=True --pretrain_save_path=$(DEMO)/pretrain \
		--finetune_save_path=$(DEMO)/frozen --overwrite
	$(RUN) --task=classification --freeze=True --init_weights=none --pretrain_save_path=$(DEMO)/pretrain \
		--finetune_save_path=$(DEMO)/frozen_random --overwrite
	$(RUN) --task=classification --pretrain_save_path=$(DEMO)/pretrain \
		--finetune_save_path=$(DEMO)/finetuned --overwrite
	$(RUN) --task=segmentation --pretrain_save_path=$(DEMO)/pretrain \
		--finetune_save_path=$(DEMO)/segmentation --overwrite
	$(RUN) --task=predict --finetune_save_path=$(DEMO)/segmentation --overwrite
	$(BIN)/python tools/compare_runs.py $(DEMO)/pretrain $(DEMO)/frozen_random $(DEMO)/frozen \
		$(DEMO)/finetuned $(DEMO)/segmentation

# Never with --quiet: warnings would not be counted, and --strict pass. The variable silences the
# theme's note on its successor, which is no warning about these pages.
docs: $(STAMP) ## Build the documentation into site/, every warning an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(STAMP) $(ADDONS_STAMP) ## Run all tests, in as many processes as there are cores, at most 4; DURATIONS=60 lists the slowest
	$(BIN)/python tests/whole_suite.py $(if $(DURATIONS),--durations=$(DURATIONS))

test-fast: $(STAMP) ## Run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

test-scripts: $(STAMP) ## Run the tests of benchmarks/ and tools/, and the golden record (about 6 minutes)
	$(BIN)/python -m pytest -m scripts tests/benchmarks tests/tools tests/end_to_end/test_golden.py

# In one process, as a GPU's memory is not shared well. Without a GPU an error: who asks for these
# tests must not be told that all is well when none has run.
test-gpu: $(STAMP) ## Run the tests that need a GPU; an error where TensorFlow sees none
	$(BIN)/python -m pytest -m gpu -p no:xdist tests/training/test_gpu.py

lint: $(STAMP) types ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check types
	$(BIN)/mypy

format: $(STAMP) ## Bring the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environments and what tests and tools leave behind
	rm -rf .venv $(ADDONS) $(INTEROP) $(WHEEL) $(MATRIX) .pytest_cache .ruff_cache .mypy_cache build dist site *.egg-info

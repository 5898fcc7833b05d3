# Everything is installed into .venv, once for each change of setup.cfg. PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
ARGS :=
PART :=
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check-all wheel-check lint clean

help:
	@echo "make demo       install the package and explain the two sample photos (pictures in demo-output/)"
	@echo "make test       install the test dependencies and run the tests"
	@echo "make lint       check the style with ruff, and the types with mypy and pyright"
	@echo "make check-all  every model family, the slow tests, and the wheel in a fresh environment (an hour; PART=timm a part)"
	@echo "make clean      remove .venv and what was built"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra: .venv/.installed-demo, .venv/.installed-test, .venv/.installed-dev.
$(VENV)/.installed-%: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing gradcam-layers[$*] into $(VENV) (the first time this takes some minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/grad-cam demo --output demo-output --force
	@echo "The pictures are in $(CURDIR)/demo-output"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.typing_check

# make check-all PART=timm, PART="layers hf/ViT", PART=--summary: see tests/check_all.py
check-all: $(VENV)/.installed-test
	$(BIN)/python -m tests.check_all $(PART)

# The wheel has to work where there is neither the repository nor anything else installed.
wheel-check: $(VENV)/.installed-dev
	@set -e; \
	room=$$(mktemp -d); trap 'rm -rf "$$room"' EXIT; \
	$(BIN)/python -m build --outdir "$$room/dist" . >"$$room/build.log" 2>&1 || { cat "$$room/build.log"; exit 1; }; \
	$(BIN)/python -m venv "$$room/venv"; \
	wheel=$$(echo "$$room"/dist/*.whl); echo "Built $$(basename "$$wheel"); installing it into a fresh environment"; \
	"$$room/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$$wheel[demo]"; \
	cd "$$room"; venv/bin/grad-cam demo --output pictures; \
	echo "The wheel works outside the repository; it made:"; ls -l pictures

clean:
	rm -rf $(VENV) build dist demo-output ./*.egg-info

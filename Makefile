# Everything is installed into .venv, once for each change of setup.cfg. PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
ARGS :=
PART :=
VIT :=
# Processes of the tests, one thread each; a file's tests stay together.
WORKERS := $(shell $(PYTHON) -c 'import os; print(max(2, min(8, os.cpu_count() or 2)))')
BIN := $(VENV)/bin
UV := $(BIN)/uv
LOWEST := .venv-lowest
# Test files that need no optional extra.
CORE := api_changes arguments batchnorm common explanation gradcam gradient_methods introspection layouts \
  loading_checkpoints loading_images loading_labels loading_models loading_normalisation loading_preprocess methods \
  metrics_maps network perturbation factorization rendering report splitting targets

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test pictures docs docs-check bench check-all wheel-check lowest lint clean

help:
	@echo "make demo       explain the two sample photos (pictures in demo-output/)"
	@echo "make test       run the tests (ARGS='-k cli' some of them, WORKERS=1 one after the other)"
	@echo "make lint       check the style with ruff, and the types with mypy and pyright"
	@echo "make pictures   make the pictures of the README anew (VIT=weights those of a real ViT, too)"
	@echo "make docs       build the site into site/ (open site/index.html)"
	@echo "make bench      measure again what the page of numbers shows (an hour; QUICK=1 a look)"
	@echo "make lowest     run the core tests with the lowest versions that setup.cfg declares, in .venv-lowest"
	@echo "make check-all  every model family, the slow tests, the wheel, the lowest versions (over an hour; PART=timm a part)"
	@echo "make clean      remove both environments and what was built"
	@echo
	@echo "Each installs what it needs into .venv first. PYTHON=python3.12 chooses the interpreter (3.10 or newer)."

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

pictures: $(VENV)/.installed-demo
	$(BIN)/python docs/pictures.py $(VIT)

# Outputs of the pages' code are kept in .site-cache until the code or the package changes.
docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -E -b html -d build/doctrees docs site
	$(BIN)/python -m docs.workshop.links site
	@echo "The site is $(CURDIR)/site/index.html"

# Writes docs/data/*.json. Coverage is read off the results of make check-all.
bench: export BENCH_JSON := $(CURDIR)/docs/data/bench.json
bench: $(VENV)/.installed-test
	for script in core first_call sweep rules methods; do $(BIN)/python benchmarks/$$script.py $(if $(QUICK),--quick) || exit 1; done
	$(BIN)/python -m docs.workshop.costs
	test ! -f check-all.jsonl || $(BIN)/python -m docs.workshop.coverage check-all.jsonl

# The whole site, with its pictures, in a browser.
docs-check: docs $(VENV)/.installed-test
	SITE=site $(BIN)/python -m pytest -q tests/test_site.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.typing_check

# make check-all PART=timm, PART="layers hf/ViT", PART=--summary: see tests/check_all.py
# All extras first: parts that run side by side must not install into one environment.
check-all: $(VENV)/.installed-test $(VENV)/.installed-dev $(VENV)/.installed-docs
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

$(BIN)/uv: | $(VENV)/.installed-dev
	@test -x $@

# numpy 1.24 has no wheel for Python 3.12 and newer; uv looks for an older interpreter, or fetches one.
$(LOWEST)/.installed: setup.cfg | $(UV)
	@echo "Installing the lowest declared versions into $(LOWEST) (some gigabytes, the first time)"
	$(UV) venv --quiet --allow-existing --python '>=3.10,<3.12' $(LOWEST)
	$(UV) pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[demo]' 'pytest>=8'
	@touch $@

lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -q $(CORE:%=tests/test_%.py) $(ARGS)

clean:
	rm -rf $(VENV) $(LOWEST) build dist site jupyter_execute .site-cache demo-output ./*.egg-info

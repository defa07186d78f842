# make reproduce | check | test | nightly | docs | slides | paper | lab | fuzz | notebooks | newest
# Each sets up .venv if it is missing.
SHELL  := bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2
# a process runs a whole file, in the order of tests/conftest.py
SHARED := --dist loadfile --no-loadscope-reorder
CHAINS := tests/test_chain.py tests/test_real_faces.py tests/test_site.py

AT     := nbs

.PHONY: reproduce static check test nightly docs slides paper fuzz lab notebooks newest
.DELETE_ON_ERROR:

reproduce: $(READY)  ## the whole chain, smoke profile: tables and figures
	@$(BIN)/affnb reproduce

static: $(READY)     ## notebooks in step with the package, lint, types
	$(BIN)/python tests/in_step.py
	$(BIN)/ruff check nbs tests docs
	$(BIN)/ruff format --check nbs tests docs
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

check: static        ## in minutes: lint, types, notebooks in step with the package, fast tests
	$(PYTEST) $(SHARED) -m "not slow and not nightly and not fuzz"

test: static         ## all that `make check` does, every notebook, the chain on a tiny scale
	$(PYTEST) $(SHARED) -m "not nightly and not fuzz"

# what takes long: a storm of kills, real faces, a full disk, ten million rows, every page of the
# site, mutants, hostile files
nightly: $(READY)
	$(PYTEST) $(SHARED) -m "nightly or fuzz"

docs: $(READY)       ## the site, from what is committed: _docs/site/index.html
	@$(BIN)/python docs/build.py site _docs/site

slides: $(READY)     ## the decks of the four sessions alone: _docs/slides/index.html
	@$(BIN)/python docs/build.py slides _docs/slides

paper: $(READY)      ## a replication report of the published results: _docs/paper.pdf
	@$(BIN)/affnb paper _docs/paper.pdf

fuzz: $(READY)       ## hostile files for the reader and `affnb score`, for MINUTES (10)
	AFFNB_FUZZ_MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest -m fuzz

lab: $(READY)        ## JupyterLab at AT, a folder or notebook of this project (AT=nbs)
	@test -e "$(AT)" || { echo "AT=$(AT): no such folder or notebook here" >&2; exit 1; }
	$(BIN)/jupyter lab --LabApp.default_url="/lab/tree/$(AT)"

notebooks: $(READY)  ## run smoke, put its outputs into nbs/, export, render README
	$(BIN)/affnb reproduce
	$(BIN)/python tests/refresh.py

# The interpreter is checked first, so that an old one gets one clear line. uv installs what uv.lock
# names, and nothing whose hash differs. Bytecode is compiled here, once, rather than by the first
# kernels. The mark is written last: a set-up that was cut short starts again.
UV_SYNC := $(BIN)/uv sync --python $(BIN)/python --system-certs --locked
$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || \
	  { echo "affnb needs Python 3.11.5 or newer, this is $$($(PYTHON) --version):" \
	         "make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV) (once; some minutes and about 6 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check uv==0.13.9
	@$(UV_SYNC) --quiet --compile-bytecode --inexact --extra dev
	@touch $(READY)

# The newest versions that pyproject.toml allows, in an environment of their own: what a user gets
# who installs without the lock. It prints which those were, and runs the tests but for the chain's
# and the site's.
NEWEST := .venv-newest/bin
newest:
	$(PYTHON) -m venv .venv-newest
	$(NEWEST)/python -m pip install --quiet --upgrade --disable-pip-version-check uv
	$(NEWEST)/uv pip install --quiet --python $(NEWEST)/python --system-certs \
	  --compile-bytecode --upgrade --editable '.[dev]'
	$(NEWEST)/uv export --quiet --frozen --all-extras --no-hashes --no-emit-project --no-annotate \
	  --output-file .venv-newest/locked.txt
	$(NEWEST)/uv pip freeze --quiet --python $(NEWEST)/python | sed 's/$$/ /' \
	  | grep --invert-match --fixed-strings \
	      --file <(grep --only-matching '^[^ ]*==[^ ]*' .venv-newest/locked.txt | sed 's/$$/ /')
	OMP_NUM_THREADS=1 $(NEWEST)/python -m pytest --numprocesses 2 $(SHARED) \
	  -m "not nightly and not fuzz" $(CHAINS:%=--ignore %)

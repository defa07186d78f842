# make reproduce | make check | make test | make nightly | make docs | make slides | make lab | make fuzz | make notebooks | make newest      each sets up .venv if it is missing
SHELL  := bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2
ALONE  := --dist worksteal
CHAINS := tests/test_chain.py tests/test_real_faces.py tests/test_site.py   # the first two run the chain as a whole, on cores that they do not keep busy alone

.PHONY: reproduce static check test nightly docs slides fuzz lab notebooks newest
.DELETE_ON_ERROR:

reproduce: $(READY)  ## the whole chain, smoke profile: tables and figures
	@$(BIN)/affnb reproduce

static: $(READY)     ## notebooks in step with the package, lint, types
	$(BIN)/python tests/in_step.py
	$(BIN)/ruff check nbs tests docs
	$(BIN)/ruff format --check nbs tests docs
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

check: static        ## in minutes: lint, types, notebooks in step with the package, fast tests
	$(PYTEST) $(ALONE) -m "not slow and not nightly and not fuzz" $(CHAINS:%=--ignore %)

test: static         ## all that `make check` does, every notebook, the chain on a tiny scale
	$(PYTEST) $(ALONE) -m "not nightly and not fuzz" $(CHAINS:%=--ignore %)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not nightly" $(CHAINS)

nightly: $(READY)    ## what takes long: a storm of kills, real faces, a full disk, ten million rows, every page of the site
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "nightly or fuzz" tests

docs: $(READY)       ## the site, from what is committed: _docs/site/index.html
	@$(BIN)/python docs/build.py site _docs/site

slides: $(READY)     ## the decks of the four sessions alone: _docs/slides/index.html
	@$(BIN)/python docs/build.py slides _docs/slides

fuzz: $(READY)       ## hostile files for the reader and `affnb score`, for MINUTES (10)
	AFFNB_FUZZ_MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest -m fuzz tests/test_properties.py

lab: $(READY)        ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

notebooks: $(READY)  ## refresh the outputs committed in nbs/ from the smoke profile's run, export, render README
	$(BIN)/affnb reproduce
	$(BIN)/python tests/refresh.py

# The interpreter is checked first, so that an old one is told in one line. uv installs what uv.lock names, and nothing whose
# hash differs. Bytecode is compiled here, once, rather than by the first kernels. The mark is written last: a set-up that was
# cut short starts again.
$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("affnb needs Python 3.11.5 or newer, this is %d.%d.%d: make PYTHON=python3.12 ..." % sys.version_info[:3] if sys.version_info < (3, 11, 5) else 0)'
	@echo "setting up $(VENV) (once; some minutes and about 6 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv sync --quiet --python $(BIN)/python --system-certs --compile-bytecode --locked --inexact --extra dev
	@touch $(READY)

# The newest versions that pyproject.toml allows, in an environment of their own: what a user gets who installs without the lock.
newest:              ## the tests but for the chain's and the site's, against the newest allowed dependencies; says which those were
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --disable-pip-version-check uv
	.venv-newest/bin/uv pip install --quiet --python .venv-newest/bin/python --system-certs --compile-bytecode --upgrade --editable '.[dev]'
	.venv-newest/bin/uv export --quiet --frozen --all-extras --no-hashes --no-emit-project --no-annotate --output-file .venv-newest/locked.txt
	.venv-newest/bin/uv pip freeze --quiet --python .venv-newest/bin/python | sed 's/$$/ /' | grep --invert-match --fixed-strings --file <(grep --only-matching '^[^ ]*==[^ ]*' .venv-newest/locked.txt | sed 's/$$/ /')
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest --numprocesses 2 --dist worksteal $(CHAINS:%=--ignore %)

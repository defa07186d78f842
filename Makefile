# make reproduce | make test | make fuzz | make lab | make notebooks      each sets up .venv if it is missing
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: reproduce test fuzz lab notebooks
.DELETE_ON_ERROR:

reproduce: $(READY)  ## the whole chain, smoke profile: tables and figures
	@$(BIN)/affnb reproduce

test: $(READY)       ## notebooks clean and in step with the package, README as rendered, tiny chain, pytest
	$(BIN)/python tests/in_step.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --ignore tests/test_chain.py --ignore tests/test_speed.py
	$(BIN)/python -m pytest tests/test_speed.py tests/test_chain.py

fuzz: $(READY)       ## hostile files for the reader and `affnb score`, for MINUTES (10)
	AFFNB_FUZZ_MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest -m fuzz tests/test_properties.py

lab: $(READY)        ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

notebooks: $(READY)  ## refresh the outputs committed in nbs/ from the smoke profile's run, export, render README
	$(BIN)/affnb reproduce
	$(BIN)/python tests/refresh.py

# The interpreter is checked first, so that an old one is told in one line. pip resolves torch and torchvision together,
# to the versions that CI passed with. The mark is written last: a set-up that was cut short starts again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("affnb needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV) (once; some minutes and about 6 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

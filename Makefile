# Everything a fresh machine needs is Python 3.11 or newer with venv, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check format install clean

demo: $(VENV)/user        ## train, evaluate and report on the bundled corpus, offline
	$(BIN)/speechprompt demo --out speechprompt-demo --force

test: check               ## what CI runs

check: $(VENV)/developer  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

format: $(VENV)/developer
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/user

# torch comes first and by exact version: any looser request may bring gigabytes of CUDA
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/user: $(VENV)/torch pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/developer: $(VENV)/torch pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[datasets,dev,media,peft,prosody,server]'
	touch $@ $(VENV)/user

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

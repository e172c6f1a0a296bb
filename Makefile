PYTHON ?= python3.11
PY = .venv/bin/python
INSTALLED = .venv/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: install demo test notebooks lint

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[io,evaluation,notebooks,dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(PY) examples/eight_tasks.py

test: $(INSTALLED)
	$(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

notebooks: $(INSTALLED)
	$(PY) -m pytest --nbmake --overwrite --nbmake-timeout=600 notebooks

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m flake8 keras_multimodel

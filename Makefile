# The first of these that runs. Another one: `make install PYTHON=/path/to/python`.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$python && break; done)
# "native": TensorFlow 2.17, beside which the operations of tensorflow-io load, on Python 3.11.
# "latest": the newest TensorFlow that is supported. `make install SET=latest` asks for it.
# What is installed stays, unless another set is asked for.
SET ?= $(or $(patsubst .venv/.installed-%,%,$(wildcard .venv/.installed-*)),$(shell $(PYTHON) -c \
	'import sys; print("native" if sys.version_info[:2] == (3, 11) else "latest")' 2>/dev/null))
EXTRAS = ablation,evaluation,export,hub,notebooks,tfds
native = '.[$(EXTRAS),io]' 'jax[cpu]==0.5.3'
latest = '.[$(EXTRAS)]' 'tensorflow==2.21.*' 'tensorflow-text==2.21.*' 'jax[cpu]==0.10.2' \
	'tensorboard>=2.20'
PY = .venv/bin/python
INSTALLED = .venv/.installed-$(SET)
LATEST = .venv-latest/bin/python
LATEST_INSTALLED = .venv-latest/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: install demo preset evaluate-preset claims test test-slow test-latest coverage notebooks lint
.PHONY: docs docs-figures docs-terminal docs-notebook dist

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found:" \
		"make install PYTHON=/path/to/python" >&2; exit 1; }
	@test -n "$($(SET))" || { echo "SET must be native or latest. Received: SET=$(SET)" >&2; exit 1; }
	@echo "$$($(PYTHON) --version) ($(PYTHON)), the $(SET) set of packages, in .venv"
	rm -f .venv/.installed*
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e $($(SET))
	# After tfds: both bring a module docstring_parser, and pydoclint needs the one of dev.
	$(PY) -m pip install --quiet -e '.[dev]' $(wordlist 2,9,$($(SET)))
	touch $(INSTALLED)

$(LATEST_INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv-latest
	$(LATEST) -m pip install --quiet --upgrade pip
	$(LATEST) -m pip install --quiet -e $(latest) \
		'torch==2.13.0' 'hypothesis>=6.100' 'nltk>=3.9' 'pytest>=8.2'
	touch $(LATEST_INSTALLED)

demo: $(INSTALLED)
	$(PY) examples/eight_tasks.py

# Hours on two cores. Start it again after any interruption, with fewer EPOCHS to end it early.
EPOCHS ?= 80
preset: $(INSTALLED)
	$(PY) examples/train_preset.py --epochs $(EPOCHS)

# What the card of the preset says, measured again.
evaluate-preset: $(INSTALLED)
	$(PY) examples/evaluate_preset.py

# Do the paper's claims hold? About eight hours; start it again after any interruption.
claims: $(INSTALLED)
	$(PY) examples/claims.py
	$(PY) examples/claims.py --tables

PYTEST = $(PY) -m pytest -p no:nbmake --numprocesses=auto --maxprocesses=4 --dist=loadfile

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

# Whole trainings, other processes and backends: what `make test` leaves out.
test-slow: $(INSTALLED)
	$(PYTEST) -m slow

test-latest: $(LATEST_INSTALLED)
	$(LATEST) -m pytest

NOTEBOOKS ?= notebooks

notebooks: $(INSTALLED)
	$(PY) -m pytest --nbmake --overwrite --nbmake-timeout=900 --numprocesses=2 $(NOTEBOOKS)

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m flake8 keras_multimodel
	.venv/bin/lint-imports
	$(PY) -m basedpyright

# All tests once more, with every line counted.
coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term-missing

# The site in `site`. A warning, such as one of a dead link, is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# What the eight-task fit shows in a terminal: some steps of it are trained, for minutes.
docs-terminal: $(INSTALLED)
	$(PY) docs/draw_terminal.py

# The same in a notebook, as Chromium shows it.
docs-notebook: $(INSTALLED)
	$(PY) docs/draw_notebook.py

# The pictures of docs/architecture.md, drawn from the code as it is, and of docs/looking_inside.md.
docs-figures: $(INSTALLED)
	$(PY) docs/draw_architecture.py
	$(PY) docs/draw_looking_inside.py
	$(PY) docs/draw_model.py

# Wheel and source distribution, and what is in them.
dist: $(INSTALLED)
	rm -rf dist
	$(PY) -m build
	$(PY) -m pytest tests/test_dist.py

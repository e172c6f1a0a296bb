PYTHON ?= python3.11
PY = .venv/bin/python
INSTALLED = .venv/.installed
LATEST = .venv-latest/bin/python
LATEST_INSTALLED = .venv-latest/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: install demo preset evaluate-preset claims test test-latest coverage notebooks lint docs-figures
.PHONY: docs-terminal

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[ablation,evaluation,io,notebooks,tfds]'
	# After tfds: both bring a module docstring_parser, and pydoclint needs the one of dev.
	$(PY) -m pip install --quiet -e '.[ablation,evaluation,io,notebooks,tfds,dev]'
	touch $(INSTALLED)

$(LATEST_INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv-latest
	$(LATEST) -m pip install --quiet --upgrade pip
	$(LATEST) -m pip install --quiet -e '.[ablation,evaluation,tfds]' 'tensorflow==2.21.*' \
		'tensorflow-text==2.21.*' 'jax[cpu]==0.10.2' 'torch==2.13.0' \
		'tensorboard>=2.20' 'hypothesis>=6.100' 'nltk>=3.9' 'pytest>=8.2'
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

test: $(INSTALLED)
	$(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test-latest: $(LATEST_INSTALLED)
	$(LATEST) -m pytest

notebooks: $(INSTALLED)
	$(PY) -m pytest --nbmake --overwrite --nbmake-timeout=600 notebooks

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m flake8 keras_multimodel
	.venv/bin/lint-imports
	$(PY) -m basedpyright

# The tests once more with every line counted: slower than `make test`, so it stands apart.
coverage: $(INSTALLED)
	$(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
		--cov --cov-report=term-missing

# What the eight-task fit shows in a terminal: some steps of it are trained, for minutes.
docs-terminal: $(INSTALLED)
	$(PY) docs/draw_terminal.py

# The pictures of docs/architecture.md, drawn from the code as it is.
docs-figures: $(INSTALLED)
	$(PY) docs/draw_architecture.py

# Every target sets up what it needs. Ctrl-C is safe: recipes end in `exec`, so make waits for the stack to stop.

PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 3
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STACK := $(BIN)/python -m runflow.stack

# What `manage.py check --deploy` is asked about: a server behind TLS, not this machine.
DEPLOY_ENV := ALLOWED_HOSTS=runflow.example PUBLIC_BASE_URL=https://runflow.example

.DEFAULT_GOAL := help
.PHONY: help demo up test check bench drill openapi fuzz

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(STAMP)  ## Run a real batch through the whole stack (KEEP=1: leave it running until Ctrl-C)
	@exec $(STACK) demo $(if $(KEEP),--keep)

up: $(STAMP)  ## Run the whole stack on 127.0.0.1:8000 until Ctrl-C (PORT=...)
	@exec $(STACK) up --port $(PORT)

test: $(STAMP)  ## Run the tests (ARGS="-k name -x" goes to pytest)
	@exec $(STACK) run --scratch -- $(BIN)/python -m pytest $(ARGS)

check: $(STAMP)  ## Run every gate beside the tests: lint, format, types, imports, migrations, deployment
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(STACK) run --scratch -- $(BIN)/python -m mypy .
	$(BIN)/lint-imports
	exec $(STACK) run --scratch -- sh -c '$(BIN)/python manage.py makemigrations --check --dry-run \
		&& $(DEPLOY_ENV) $(BIN)/python manage.py check --deploy --fail-level WARNING'

fuzz: $(STAMP)  ## Ask a running stack thousands of made-up requests (ARGS="--fuzz-rounds 20 --fuzz-seed 1")
	@exec $(STACK) run --scratch -- $(BIN)/python -m pytest -s tests/openapi/test_fuzz.py --fuzz-examples 60 --fuzz-rounds 3 $(ARGS)

openapi: $(STAMP)  ## Write docs/openapi.json anew, from what the views declare
	@exec $(STACK) run --scratch -- $(BIN)/python manage.py spectacular --format openapi-json --file docs/openapi.json

bench: $(STAMP)  ## Print the numbers this project holds itself to
	@exec $(STACK) run --scratch -- $(BIN)/python -m tests.bench $(ARGS)

drill: $(STAMP)  ## Break everything under load for MINUTES=3 by SEED=1, and check that nothing is lost or doubled
	@exec $(BIN)/python -m tests.faults --minutes $(MINUTES) --seed $(SEED) $(ARGS)

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is not: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) ..." >&2; $(PYTHON) -m venv $(VENV); }
	@echo "Installing requirements-dev.txt into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

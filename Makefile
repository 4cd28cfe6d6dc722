# Set-up is part of every target: a fresh clone needs Python 3.10 or newer and nothing else.
.PHONY: demo test test-quick lint check ui bench lock

PYTHON := .venv/bin/python

demo:            ## local services and the main job, offline, from nothing
	@./cantrip demo

test: dev        ## the whole test suite
	@$(PYTHON) -m pytest

test-quick: dev  ## without the slow integration and fault tests
	@$(PYTHON) -m pytest -m "not slow" tests/unit tests/blocks tests/pipelines

lint: dev        ## style, types, and the one-way arrows between rooms
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

check:           ## parse and import every block and pipeline
	@./cantrip check

ui:              ## Mage's notebook UI on 127.0.0.1:6789
	@./cantrip ui

bench: dev       ## what is measured, and against what: bench/README.md
	@$(PYTHON) -m bench

lock:            ## after editing pyproject.toml
	uv lock --project services/google
	uv lock && uv export --frozen --no-dev --no-emit-project --format requirements-txt --quiet -o requirements.txt

.PHONY: dev
dev:
	@./cantrip environment dev

# The usual verbs. `make setup` first; each of the others works on the environment in .venv.

PYTHON = .venv/bin/python

.PHONY: help setup test quick failed lint format types ci clean

help:
	@echo "make setup    make the environment .venv with all that developing takes"
	@echo "make quick    all tests but the slow ones"
	@echo "make failed   the tests that failed last time"
	@echo "make test     all tests"
	@echo "make lint     style and format, without changing anything"
	@echo "make format   format the code and sort the imports"
	@echo "make types    check the types"
	@echo "make ci       all that has to pass before anything lands, in a fresh .venv"
	@echo "make clean    remove caches of tools; banks, data and results stay"

setup:
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt

test:
	$(PYTHON) -m pytest

quick:
	$(PYTHON) -m pytest -m "not slow"

failed:
	$(PYTHON) -m pytest --last-failed --last-failed-no-failures none

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format:
	.venv/bin/ruff check --select I --fix .
	.venv/bin/ruff format .

types:
	.venv/bin/mypy

ci:
	.ci/run

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

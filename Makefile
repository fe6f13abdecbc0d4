# One file for everything a user types. Every target sets the environment up first; that takes a second when it is done.
PYTHON := .venv/bin/python

.PHONY: setup run test test-all check bench clean

setup:
	@bash scripts/setup.sh

run: setup
	$(PYTHON) run_rl.py encoder=mvp task=reach $(ARGS)

test: setup
	$(PYTHON) -m pytest -n 2

test-all: setup
	$(PYTHON) -m pytest -n 2 -m "slow or not slow"

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports --cache-dir .import_linter_cache

bench: setup
	$(PYTHON) scripts/bench_env.py
	$(PYTHON) scripts/bench_rl.py
	$(PYTHON) scripts/bench_encoders.py
	$(PYTHON) scripts/bench_data.py
	$(PYTHON) scripts/bench_imitation.py
	$(PYTHON) scripts/bench_viewpoint.py

clean:
	rm -rf .venv .tools .pytest_cache .ruff_cache .hypothesis .import_linter_cache

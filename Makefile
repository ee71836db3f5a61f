# Every command of the project. Each sets up what it needs: all it asks for is make and Python >= 3.11.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# In the order of their names: the slowest files (chaos, conformance, faults) are among the first.
BESIDE := -n auto --dist loadfile --no-loadscope-reorder
TYPED := $(wildcard src tools benchmarks examples tests/typing)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types imports house fmt chaos faults bench lock clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name what; do \
		printf '  make %-8s %s\n' "$$name" "$$what"; done

setup: $(READY)  ## make .venv, with locked requirements and dibs itself, editable

demo: $(READY)  ## 12,000 jobs under the faults that befall workers, and an audit
	@$(BIN)/dibs demo $(ARGS)

test: check  ## the whole proof: make check, then every test and every example of the docs
	@sh tools/servers.sh
	@$(BIN)/python -m pytest $(BESIDE) -k "not rabbitmq" $(ARGS)
	@$(BIN)/python -m pytest $(BESIDE) -k rabbitmq $(ARGS)  # its server starts slowly beside the others

check: lint types imports house  ## lint, format, types, imports, budgets: what needs no run

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --diff .

types: $(READY)
	@$(BIN)/mypy --no-error-summary $(TYPED)
	@$(BIN)/basedpyright --pythonpath $(BIN)/python $(TYPED)

imports: $(READY)
	@$(BIN)/lint-imports --no-logo

house: $(READY)
	@$(BIN)/python -m tools.check_budgets
	@$(BIN)/python -m tools.check_seams
	@$(BIN)/python -m tools.check_words

fmt: $(READY)  ## format the code and mend what ruff can mend by itself
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

chaos: $(READY)  ## 5 minutes of random kills and 100 rolling restarts, for each kind of effect
	@DIBS_CHAOS_SECONDS=300 DIBS_CHAOS_RESTARTS=100 $(BIN)/python -m pytest -s -n0 \
		-o faulthandler_timeout=0 -k every_rule tests/chaos/test_chaos.py $(ARGS)

faults: $(READY)  ## servers and networks that fail while 20,000 jobs are under way; ARGS="redis"
	@$(BIN)/python -m tests.faults $(ARGS)

bench: $(READY)  ## speed on this machine, each figure beside the bare work
	@$(BIN)/python -m benchmarks $(ARGS)

lock:  ## write requirements/dev.txt anew from pyproject.toml and dev.in (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-header --no-annotate --no-emit-index-url --extra demo \
		--extra postgres --extra rabbitmq --extra redis --extra sqs \
		pyproject.toml requirements/dev.in --output-file requirements/dev.txt

clean:  ## remove .venv and every cache
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache dist build
	rm -rf .ruff_cache src/.ruff_cache
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): requirements/dev.txt pyproject.toml tools/setup.sh
	@sh tools/setup.sh $(VENV)
	@touch $@

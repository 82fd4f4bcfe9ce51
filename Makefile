# What a developer runs. Every target makes, or reuses, the virtual environment that it needs.
#
#   make demo PYTHON=python3.12     another Python
#   make test ARGS="-k provision"   arguments for what a target runs

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# The Python is part of the name, so that asking for another one makes the environment anew.
STAMP := made-with-$(subst /,_,$(PYTHON))
RUN := $(VENV)/.run-$(STAMP)
DEV := $(VENV)/.dev-$(STAMP)

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest lint fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUN) ## boot a simulated guest, provision it, look at it, shut it down
	@$(BIN)/stereosctl demo $(ARGS)

test: $(DEV) ## run all tests without virtual machines, and check what each test file covers
	@$(BIN)/python tools/run_tests.py $(ARGS)

LOWEST := $(VENV)-lowest
# What stands on each dependency: the core, but for what reading costs; the drivers; the command line. The streams of
# trio are put through all of `check_client`.
LOWEST_TESTS := tests/cli/test_commands.py tests/cli/test_completion.py \
	$(filter-out %_cost.py %_hostile.py,$(wildcard tests/core/test_*.py)) \
	$(addprefix tests/client/test_,attach.py cancel.py ctrl_c.py dial.py trio_streams.py)

test-lowest: pyproject.toml ## run what stands on dependencies with the lowest versions of all of them
	@mkdir -p build && $(PYTHON) tools/lowest_versions.py > build/lowest.txt
	@PIP_CONSTRAINT=build/lowest.txt tools/make_venv "$(PYTHON)" "$(LOWEST)" test
	@$(LOWEST)/bin/python -m pytest -q --no-header -n 4 $(LOWEST_TESTS) $(ARGS)

lint: $(DEV) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

fuzz: $(DEV) ## throw random input at the core and at both ends
	@$(BIN)/python fuzz $(ARGS)

clean: ## remove the virtual environments and what tools leave behind
	rm -rf .venv* .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov \
		docs/_build docs/_generated

$(RUN): pyproject.toml tools/make_venv
	@tools/make_venv "$(PYTHON)" "$(VENV)" run
	@touch $@

$(DEV): pyproject.toml tools/make_venv
	@tools/make_venv "$(PYTHON)" "$(VENV)" dev
	@touch $(RUN) $@

# Rooms that bring targets of their own (docs, virtual machines, soak tests) have a file with them.
include $(wildcard */targets.mk tests/*/targets.mk)

# Every goal makes what it needs: the virtual environment in .venv comes from .ci/setup, which returns at once when
# there is nothing to do and installs again when pyproject.toml has changed.

PYTHON ?= python3
VENV   := .venv
CLUSTER ?= /var/tmp/aioring-cluster
ARGS   ?=
JOBS   ?= 3

RUN    := $(VENV)/bin/python
SETUP  := PYTHON="$(PYTHON)" .ci/setup $(VENV)

.DEFAULT_GOAL := help
.PHONY: help demo example-postgres bench test test-syscalls test-all lint format types docs site site-shots clean
.NOTPARALLEL:

help:  ## list the goals
	@echo "Goals (ARGS=... goes to the program, PYTHON=... names another Python, JOBS=0 tests one after the other):"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r goal text; do \
	    printf '  make %-14s %s\n' "$$goal" "$$text"; done

demo:  ## hash a tree of files with aioring, aiofiles and a plain loop
	@echo "demo: hashes a tree of small files with aioring and with what else there is, and compares"
	@$(SETUP) demo,uvloop
	@$(RUN) examples/hash_tree.py $(ARGS)

example-postgres:  ## read the tables of a real PostgreSQL cluster with read streams (needs Debian's postgresql)
	@echo "example-postgres: makes a cluster in $(CLUSTER) with pgbench, once, and scans its tables without a server"
	@$(SETUP) demo
	@$(RUN) examples/pg_cluster.py $(CLUSTER)
	@$(RUN) examples/pg_scan.py $(CLUSTER)/data $(ARGS)

test:  ## run the tests, each on every method, and on every loop (ARGS="-k worker")
	@echo "test: runs the tests in tests/ with $(VENV)/bin/python, each on every method, and on every loop"
	@$(SETUP) test,demo
	@$(RUN) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-syscalls:  ## run the core tests with liburing hidden: plain system calls
	@echo "test-syscalls: runs the tests marked 'core' with liburing hidden, by plain system calls"
	@$(SETUP) test,demo
	@AIORING_LIBURING=none $(RUN) -m pytest -n $(JOBS) --dist worksteal -m core $(ARGS)

bench:  ## read 4 KiB beside every peer (ARGS="--settings busy --rounds 3")
	@echo "bench: 4 KiB reads with aioring and everybody else: idle, beside a busy thread, io_uring refused; takes 10 minutes"
	@$(SETUP) bench
	@$(RUN) benchmarks/ring_read.py $(ARGS)

test-all:  ## run the tests on every Python from 3.11 to 3.15 that is here
	@echo "test-all: runs the tests on every Python from 3.11 to 3.15, each in .venv-X.Y"
	@$(each_python)

lint:  ## check style and format (ruff)
	@$(SETUP) lint
	@echo "lint: ruff check, ruff format --check"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

format:  ## mend style and format (ruff)
	@$(SETUP) lint
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

types:  ## check types (mypy --strict, pyright)
	@$(SETUP) test,demo,lint
	@echo "types: mypy --strict, pyright"
	@$(RUN) -m mypy --strict
	@$(RUN) -m pyright --pythonpath $(RUN)

docs:  ## check that the docs hold what they say
	@$(SETUP) test,demo
	@$(RUN) docs/check.py $(ARGS)

site:  ## build the documentation site into build/site, strictly
	@$(SETUP) site
	@echo "site: zensical build --strict, then every link, anchor and image of what it built"
	@rm -rf build/site
	@PYTHONPATH=docs $(VENV)/bin/zensical build --clean --strict -f zensical.toml
	@$(RUN) docs/check_site.py

site-shots: site  ## draw pages of the site at two widths into build/shots (needs Debian's chromium)
	@echo "site-shots: pages in headless Chromium, 400 and 1280 wide; none may scroll sideways"
	@$(RUN) docs/check_site.py --chromium

clean:  ## remove the environments and everything else that make made
	rm -rf .venv .venv-3.* build dist .cache .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A pyenv shim is on PATH for versions that do not run: only what starts counts.
define each_python
ran= missing= failed=; \
for v in 3.11 3.12 3.13 3.14 3.15; do \
    found=; \
    for p in python$$v "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$v*/bin/python$$v; do \
        if "$$p" -c '' >/dev/null 2>&1; then found=$$p; break; fi; \
    done; \
    if [ -z "$$found" ]; then missing="$$missing $$v"; continue; fi; \
    echo; echo "test-all: Python $$v ($$found)"; \
    if PYTHON="$$found" .ci/setup .venv-$$v test,demo && AIORING_TEST_EVERY=1 .venv-$$v/bin/python -m pytest $(ARGS); \
    then ran="$$ran $$v"; else failed="$$failed $$v"; fi; \
done; \
echo; echo "test-all: passed on:$${ran:- none}; failed on:$${failed:- none}; not found:$${missing:- none}"; \
[ -z "$$failed" ] && [ -n "$$ran" ]
endef

# `make help` lists the targets. Needs Python 3.10 or newer and nothing else.

PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-3.10-lowest
# Searched for once, and only where it is needed.
PYTHON_LOWEST = $(eval PYTHON_LOWEST := $(shell .ci/python 3.10))$(PYTHON_LOWEST)
ARGS ?=

# Checks the types of the page's scripts. The last one that is JavaScript, and so needs nothing but
# Node.js; later ones are a program for each kind of machine.
TYPESCRIPT = 5.9.3
TSC = .typescript/node_modules/typescript/bin/tsc

# Where `make install` puts the command.
BIN ?= $(HOME)/.local/bin

PIP_INSTALL = -m pip install -qq --disable-pip-version-check
INPUTS = setup.py pyproject.toml monconn/_version.py

# Two goals at once must not install into one environment at the same time.
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@echo "monconn: make TARGET [ARGS=...] [PYTHON=python3.12] [VENV=.venv]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r t d; do \
		printf '%-15s %s\n' "$$t" "$$d"; done

.PHONY: run
run: $(VENV)/.has-run ## try it: install, then `monconn demo`
	@$(VENV)/bin/monconn demo $(ARGS)

.PHONY: install
install: $(VENV)/.has-run ## have `monconn` found everywhere: a link in ~/.local/bin
	@$(VENV)/bin/python -c 'import os, sys; \
		ours, link = map(os.path.abspath, sys.argv[1:]); \
		os.path.lexists(link) and os.path.realpath(link) != os.path.realpath(ours) and \
		sys.exit(f"monconn: {link} is there already, and is not of this clone: left as it is")' \
		"$(VENV)/bin/monconn" "$(BIN)/monconn"
	@mkdir -p "$(BIN)"
	@ln -sf "$(abspath $(VENV))/bin/monconn" "$(BIN)/monconn"
	@echo "monconn: $(BIN)/monconn runs $(abspath $(VENV))/bin/monconn; to undo it, remove it"
	@case ":$$PATH:" in *":$(BIN):"*) ;; *) \
		echo "monconn: $(BIN) is not on your PATH: log in anew, or export PATH=\"\$$PATH:$(BIN)\"";; esac

.PHONY: test
test: $(VENV)/.has-test ## run the tests; ARGS="-k name" goes to pytest
	@echo "monconn: running the tests"
	@$(VENV)/bin/python -m pytest $(ARGS)

.PHONY: test-latest
test-latest: test ## the same: a new environment takes the newest dependencies

.PHONY: test-lowest
test-lowest: $(VENV_LOWEST)/.has-lowest ## run the tests on Python 3.10 with the oldest dependencies
	@echo "monconn: running the tests with the oldest dependencies"
	@$(VENV_LOWEST)/bin/python -m pytest $(ARGS)

.PHONY: check
check: $(VENV)/.has-dev ## lint, formatting and types; of the page's scripts where Node.js is
	@echo "monconn: ruff check"
	@$(VENV)/bin/ruff check --output-format=concise .
	@echo "monconn: ruff format --check"
	@$(VENV)/bin/ruff format --check .
	@echo "monconn: mypy"
	@$(VENV)/bin/mypy
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
		test -e .typescript/$(TYPESCRIPT) || { \
			echo "monconn: installing TypeScript $(TYPESCRIPT) into .typescript"; \
			rm -rf .typescript && mkdir .typescript && \
			npm install --prefix .typescript --no-save --no-audit --no-fund --loglevel=error \
				typescript@$(TYPESCRIPT) >/dev/null && touch .typescript/$(TYPESCRIPT); \
		} && echo "monconn: tsc" && node $(TSC) --project tsconfig.json; \
	elif [ -n "$$MONCONN_REQUIRE_PROGRAMS" ]; then \
		echo "monconn: tsc needs node and npm (Debian: apt install nodejs npm)" >&2; exit 1; \
	else \
		echo "monconn: tsc is skipped: it needs node and npm (Debian: apt install nodejs npm)"; \
	fi

.PHONY: format
format: $(VENV)/.has-dev ## format the code and fix what the linter can
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format .

.PHONY: docs
docs: $(VENV)/.has-docs ## make the documentation's site in build/website/
	@echo "monconn: making the documentation in build/website/"
	@$(VENV)/bin/python website/build.py
	@echo "monconn: open build/website/index.html"

.PHONY: man
man: $(VENV)/.has-dev ## make the manual pages anew, after a change of options or configuration
	@$(VENV)/bin/python man/make.py

.PHONY: build
build: $(VENV)/.has-dev ## make a wheel and a source archive in dist/
	@echo "monconn: building dist/"
	@rm -rf build dist
	@output=$$($(VENV)/bin/python -m build 2>&1) || { echo "$$output"; exit 1; }
	@rm -rf build
	@$(VENV)/bin/python -m twine check --strict dist/* >/dev/null || \
		{ $(VENV)/bin/python -m twine check --strict dist/*; exit 1; }
	@ls dist

.PHONY: bench
bench: $(VENV)/.has-run ## measure monconn beside its peers, under 10 minutes; ARGS=--quick: under 2
	@$(VENV)/bin/python benchmarks/run.py $(ARGS)

.PHONY: soak
soak: $(VENV)/.has-run ## load, kill and attack it for two minutes; ARGS="--seconds 3600": longer
	@$(VENV)/bin/python soak/run.py $(ARGS)

.PHONY: api-test
api-test: $(VENV)/.has-api-test ## attack the HTTP API by its own description (schemathesis)
	@$(VENV)/bin/python soak/http_api.py $(ARGS)

.PHONY: full
full: ## what CI has no time for: each Python found, long property tests, benchmarks, a long soak
	@.ci/full

.PHONY: clean
clean: ## remove the environments, caches and everything built
	@echo "monconn: removing environments, caches and everything built"
	@rm -rf .venv .venv-* .typescript build dist *.egg-info
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says which extras an environment has; a larger set covers the smaller ones.

$(VENV)/.has-run: $(VENV)/.made $(INPUTS)
	@echo "monconn: installing monconn into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.has-test: $(VENV)/.made $(INPUTS)
	@echo "monconn: installing monconn and what its tests need into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[all,test,browser]'
	@touch $(VENV)/.has-run $@

$(VENV)/.has-dev: $(VENV)/.made $(INPUTS)
	@echo "monconn: installing monconn, its tests' needs and the linters into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[all,dev]'
	@touch $(VENV)/.has-run $(VENV)/.has-test $@

$(VENV)/.has-api-test: $(VENV)/.made $(INPUTS)
	@echo "monconn: installing monconn and schemathesis into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[all,api-test]'
	@touch $(VENV)/.has-run $@

$(VENV)/.has-docs: $(VENV)/.made $(INPUTS)
	@echo "monconn: installing monconn and Sphinx into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[all,docs]'
	@touch $(VENV)/.has-run $@

$(VENV_LOWEST)/.has-lowest: $(VENV_LOWEST)/.made $(INPUTS) .ci/lowest.txt
	@echo "monconn: installing monconn and its oldest dependencies into $(VENV_LOWEST)"
	@$(VENV_LOWEST)/bin/python $(PIP_INSTALL) -c .ci/lowest.txt -e '.[all,test]'
	@touch $@

# What is said on the command line still wins: make test-lowest PYTHON=python3
$(VENV_LOWEST)/.made: PYTHON = $(PYTHON_LOWEST)

$(VENV)/.made $(VENV_LOWEST)/.made:
	@test -n "$(PYTHON)" || { \
		echo "monconn: install Python 3.10, or name another: make PYTHON=..." >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "monconn: $(PYTHON) not found; install Python 3.10 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "monconn: $$("$(PYTHON)" --version 2>&1) is too old, 3.10 or newer is needed; name one: make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "monconn: $(PYTHON) cannot make virtual environments; install venv (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "monconn: making a virtual environment in $(@D)"
	@"$(PYTHON)" -m venv "$(@D)"
	@touch $@

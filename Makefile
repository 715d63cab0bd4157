# Every target works on a fresh machine that has python3 (3.11 or later; for the demo 3.10), pip, make and git.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
DSPY := 3.4.1
ARGS ?=

BIN := .venv/bin
UV := $(BIN)/uv
INSTALLED := .venv/installed
DEMO := .venv/demo-installed
CACHE := $(CURDIR)/.cache

# Nothing that the user has set up shows in a run, and nothing is left in the user's folders.
# Temporary files stay where they are: a longer TMPDIR would break the kernels' Unix sockets.
export LITELLM_LOCAL_MODEL_COST_MAP := True
export DSPY_CACHEDIR := $(CACHE)/dspy
export MPLCONFIGDIR := $(CACHE)/matplotlib
export IPYTHONDIR := $(CACHE)/ipython
export JUPYTER_RUNTIME_DIR := $(CACHE)/jupyter/runtime
export JUPYTER_DATA_DIR := $(CACHE)/jupyter/data
export JUPYTER_CONFIG_DIR := $(CACHE)/jupyter/config
export NO_PROXY := 127.0.0.1,localhost,::1
export no_proxy := $(NO_PROXY)
unexport $(filter DAYTONA_%,$(.VARIABLES))
# Dozens of processes import the same packages; without bytecode each compiles them anew, for up to ten seconds.
unexport PYTHONDONTWRITEBYTECODE

# Without a model's key and without .env; the demo is the one that may use them.
KEYS := $(filter %_API_KEY %_API_TOKEN %_AUTH_TOKEN %_API_BASE %_BASE_URL HF_TOKEN,$(.VARIABLES))
KEYLESS := env $(KEYS:%=-u %) PYTHON_DOTENV_DISABLED=1

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEMO) ## Run the demo; ARGS="--model ..." lets a real model write the code
	@$(BIN)/daytona-kernel demo $(ARGS)

# The tests of one file share a kernel, so a file stays in one process (conftest.py has the scheduler). Workers are more
# than cores: tests often wait.
PYTEST := $(KEYLESS) $(BIN)/python -m pytest
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: static browser ## Check everything; test the newest versions, and the oldest Python, ipykernel and DSPy
	@$(KEYLESS) $(BIN)/python -m tests.environments oldest sandbox-image
	@$(PYTEST) tests $(PARALLEL) $(ARGS)

.PHONY: test-matrix
test-matrix: environments ## Run what depends on versions on all other Pythons, ipykernels and DSPys; test-deep; slow tests
	@$(PYTEST) tests/matrix --matrix -n 2 --dist worksteal $(ARGS)

.PHONY: test-deep
test-deep: $(INSTALLED) ## Run the property tests with four times the examples
	@$(PYTEST) tests -m 'hypothesis and not slow' --hypothesis-profile=deep $(PARALLEL) $(ARGS)

# A loop ends with the shell that started it, also when that is killed.
.PHONY: test-busy
test-busy: $(INSTALLED) ## Run the tests of `make test` beside two busy loops
	@$(KEYLESS) $(BIN)/python -m tests.environments oldest sandbox-image
	@loops=(); trap 'kill "$${loops[@]}" 2>/dev/null || true' EXIT; \
		for _ in 1 2; do while kill -0 $$$$ 2>/dev/null; do :; done & loops+=($$!); done; \
		$(PYTEST) tests $(PARALLEL) $(ARGS)

# The bound is for a mirror that hangs; without a browser the tests that need one say so and skip.
.PHONY: browser
browser: ## Install Chromium where there is no browser and apt may; tests click through pages with it
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null \
		|| [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { echo "Installing chromium"; mkdir -p $(CACHE); \
		export DEBIAN_FRONTEND=noninteractive; { timeout --kill-after=5 60 apt-get update -qq && timeout --kill-after=5 120 \
		apt-get install -qq --yes --no-install-recommends chromium; } >$(CACHE)/browser.log 2>&1 </dev/null \
		|| echo "There is no browser: $(CACHE)/browser.log says why"; }

.PHONY: test-dspy-versions
test-dspy-versions: $(INSTALLED) ## Run the DSPy contract on every DSPy version that is supported
	@$(KEYLESS) $(BIN)/python -m tests.environments $(basename $(notdir $(wildcard constraints/dspy-*.txt)))
	@$(PYTEST) tests -m dspy $(ARGS)
	@$(PYTEST) tests/matrix --matrix -k dspy $(ARGS)

.PHONY: check
check: static test-unit ## Format, lint, types, imports and the unit tests

.PHONY: test-unit
test-unit: $(INSTALLED) ## Run the unit tests, the inner loop
	@$(PYTEST) tests/unit $(ARGS)

.PHONY: static
static: $(INSTALLED)
	@$(MAKE) --jobs=2 --output-sync=target types style

.PHONY: types
types: $(INSTALLED)
	@$(BIN)/mypy

.PHONY: style
style: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo --cache-dir $(CACHE)/import-linter

.PHONY: format
format: $(INSTALLED) ## Format the code and sort its imports
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

.PHONY: docs
docs: $(INSTALLED) ## Write the page that is made from the code: docs/execution-states.md
	@$(BIN)/python -m tests.states_page

.PHONY: bench
bench: $(INSTALLED) ## Run the benchmarks; ARGS picks them
	@$(KEYLESS) $(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: soak
soak: $(INSTALLED) ## Work through a link that is cut 5,000 times, and count what is lost
	@$(KEYLESS) $(BIN)/python -m tests.faults.soak $(ARGS)

.PHONY: leaks
leaks: $(INSTALLED) ## Start and end 200 sessions at an emulated Daytona in every way, and count the sandboxes left
	@$(KEYLESS) timeout 1200 $(BIN)/python -m tests.faults.leaks $(ARGS)

.PHONY: environments
environments: $(INSTALLED) ## Build the virtual environments of the other Pythons
	@$(KEYLESS) $(BIN)/python -m tests.environments

$(UV):
	@echo "Making .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# Stamps are touched last, so that a half-made install is made again. The newest versions do not support Python 3.10.
$(DEMO): $(UV) pyproject.toml constraints/dspy-$(DSPY).txt constraints/python3.10-demo.txt
	@echo "Installing what the demo needs into .venv"
	@$(UV) pip install --quiet --python $(BIN)/python --editable '.[demo]' --constraint \
		constraints/$$([ -e $(BIN)/python3.10 ] && echo python3.10-demo || echo dspy-$(DSPY)).txt
	@mkdir -p $(CACHE) && touch $@

$(INSTALLED): $(UV) pyproject.toml constraints/dspy-$(DSPY).txt
	@[ ! -e $(BIN)/python3.10 ] || { echo "This needs Python 3.11 or later: run \`make clean\`, then give PYTHON=..."; exit 1; }
	@echo "Installing into .venv"
	@$(UV) pip install --quiet --python $(BIN)/python --constraint constraints/dspy-$(DSPY).txt \
		--group dev --editable '.[demo,report,jupyter,testing]'
	@mkdir -p $(CACHE) && touch $(DEMO) $@

# $(1) file of pins, $(2) Python, $(3) what to resolve, $(4) what to hold it to
define pin
	echo "constraints/$(1).txt"
	printf '%s\n' $(4) | $(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url \
		--no-emit-find-links --python-version $(2) --constraint - --upgrade $(3) \
		--output-file constraints/$(1).txt >/dev/null
endef

WHOLE := pyproject.toml --extra demo --extra report --extra jupyter --extra testing --group dev
# A newer jsonschema with Jupyter's extra compiles 39 grammars when dspy imports it: 1.4 s of CPU in each process.
QUICK := 'jsonschema<4.25'
KERNEL := --group kernel

.PHONY: constraints
constraints: $(UV) ## Pin the newest versions of everything anew
	@$(call pin,dspy-3.4.1,3.11,$(WHOLE),dspy==3.4.1 ipykernel==7.4.0 $(QUICK))
	@$(call pin,dspy-3.3.1,3.11,$(WHOLE),dspy==3.3.1 $(QUICK))
	@$(call pin,dspy-3.2.1,3.11,$(WHOLE),dspy==3.2.1 $(QUICK))
	@$(call pin,dspy-3.1.3,3.11,$(WHOLE),dspy==3.1.3 $(QUICK))
	@$(call pin,python3.10-demo,3.10,pyproject.toml --extra demo,dspy==3.4.1)
	@$(call pin,oldest,3.10,pyproject.toml --group test,dspy==3.1.3 ipykernel==6.31.0)
	@$(call pin,python3.10-ipykernel6,3.10,$(KERNEL),ipykernel==6.31.0)
	@$(call pin,python3.11-ipykernel6,3.11,$(KERNEL),ipykernel==6.31.0)
	@$(call pin,python3.12,3.12,$(KERNEL),ipykernel==7.4.0)
	@$(call pin,python3.13,3.13,$(KERNEL),ipykernel==7.4.0)
	@$(call pin,../sandbox_image/requirements,3.13,sandbox_image/requirements.in,ipykernel)
	@$(call pin,../sandbox_image/requirements-data,3.13,sandbox_image/requirements-data.in,\
		$$(cat sandbox_image/requirements.txt))

.PHONY: clean
clean: ## Remove all that make made
	@rm -rf .venv .venvs .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

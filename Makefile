# `make` or `make help` lists the targets. Each target makes the virtual environment it needs from the locked requirements. At run time it
# starts a private RabbitMQ and PostgreSQL (deploy/local).

.DEFAULT_GOAL := help
SHELL := /bin/bash
# Processes start in half the time if Python may keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE
# The distribution's interpreter if it is new enough: it is built with profile-guided optimisation, and by default pyenv's is not.
# PYTHON=... names another one.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell /usr/bin/python3 -c 'import ensurepip, venv; $(NEW_ENOUGH)' 2>/dev/null && echo /usr/bin/python3 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
LOCK := deploy/requirements/dev.txt
# The folder is in it, too: the programs of an environment do not start once it was moved.
READY := $(VENV)/.ready-$(shell { sha256sum $(LOCK) pyproject.toml; pwd; } 2>/dev/null | sha256sum | cut -c1-16)
PEERS := .remit/peers
PEERS_LOCK := tests/bench/peers/requirements.txt
PEERS_READY := $(PEERS)/.ready-$(shell sha256sum $(PEERS_LOCK) | cut -c1-16)
LOCKED = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
SUPPLY := .remit/supply
SUPPLY_LOCK := deploy/requirements/supply.txt
SUPPLY_READY := $(SUPPLY)/.ready-$(shell sha256sum $(SUPPLY_LOCK) | cut -c1-16)
IMAGE_LOCKS := $(addprefix deploy/requirements/,service.txt door.txt desk.txt runtime.txt)
IMAGES_LOCK := .remit/images.txt
N ?= 200
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: help demo up test coverage agreement cards check bench bench-peers bench-long desk-load faults mutants schema contract-page release-contracts config images format sbom licences vulnerabilities lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

demo: $(READY) ## pay N=200 invoices through real services, with a gateway that misbehaves; then run the audit
	@$(BIN)/python -m deploy.demo --invoices $(N)

up: $(READY) ## the same services, kept running; prints what to type next
	@$(BIN)/python -m deploy.demo.up

test: $(READY) ## all tests, against a real broker and database
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

coverage: $(READY) ## the same tests, with each branch of services/ and shared/ counted: prints what none of them runs; ARGS as for test
	@rm -rf .remit/coverage && mkdir -p .remit/coverage
	@$(BIN)/python -m coverage run -m pytest -n auto --maxprocesses 4 $(ARGS); ended=$$?; \
	  $(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$ended

agreement: $(READY) ## draw N=100000 messages from the schemas and from just outside: the services take those that the schemas allow, no others
	@REMIT_DRAWN=$(if $(filter command line,$(origin N)),$(N),100000) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --timeout 3600 tests/contracts/test_agreement.py

cards: $(READY) ## how much card data is caught and how much else is refused, kind by kind; ARGS='--samples 2000' for a short one
	@$(BIN)/python -m tests.cards $(ARGS)

check: $(READY) ## lint, format, types, imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

bench: $(READY) ## measure payments per second, latency and CPU per payment, and the limits of broker and database
	@$(BIN)/python -m tests.bench $(ARGS)

bench-long: $(READY) ## measure growth and memory over many payments and a million stored invoices; ARGS='--invoices 20000' for a short run
	@$(BIN)/python -m tests.bench.long $(ARGS)

desk-load: $(READY) ## fill the staff database with years of work, and measure every page and live numbers; ARGS='--entries 100000' for a short run
	@$(BIN)/python -m tests.bench.desk $(ARGS)

bench-peers: $(READY) $(PEERS_READY) ## measure the same work in FastStream with an outbox, in DBOS, and in Remit, in turns
	@$(BIN)/python -m tests.bench.peers --python $(PEERS)/bin/python $(ARGS)

mutants: $(READY) ## change each rule of the pure cores and take out each guard, in turn: a test has to notice; ARGS=saga or ARGS=guards for one
	@$(BIN)/python -m tests.mutants $(ARGS)

faults: $(READY) ## inject every crash, cut and duplicate into the real processes, then run the audit; ARGS=list shows them
	@$(BIN)/python -m tests.faults $(ARGS)

schema: $(READY) ## after a change of migrations, grants, contracts, topology, alerts or examples: write what is made of them (schema.txt, rights.json, documents, Kubernetes)
	@$(BIN)/python -m deploy.contract
	@$(BIN)/python -m deploy.local.snapshot
	@$(BIN)/python -m deploy.permissions.needs
	@$(BIN)/python -m deploy.kubernetes.resources
	@$(BIN)/python -m deploy.local.snippets

contract-page: $(READY) ## write the page about all messages of others, as the desk shows it at /contract, into one file: .remit/contract.html
	@$(BIN)/python -m deploy.contract page

release-contracts: $(READY) ## keep schemas and AsyncAPI document as the next version, on which others rely; refused if it breaks the last one
	@$(BIN)/python -m deploy.contract release

config: $(READY) ## after a change of settings: write their reference (deploy/CONFIGURATION.md)
	@$(BIN)/remit config reference > deploy/CONFIGURATION.md.new && mv deploy/CONFIGURATION.md.new deploy/CONFIGURATION.md

images: ## build the images of the services and of `remit`, with version and revision; TAG=... names them
	@REMIT_TAG=$(TAG) REMIT_REVISION=$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) \
	  docker compose -f deploy/compose.yaml --profile tools build

format: $(READY) ## format the source as `make check` requires
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

sbom: $(SUPPLY_READY) $(IMAGES_LOCK) ## list what the images stand on, from their locks, as CycloneDX: .remit/sbom.json
	@$(SUPPLY)/bin/python -W ignore -m cyclonedx_py requirements $(IMAGES_LOCK) --pyproject pyproject.toml --output-reproducible -o .remit/sbom.json.new
	@mv .remit/sbom.json.new .remit/sbom.json
	@echo "Wrote .remit/sbom.json"

licences: $(READY) $(SUPPLY_READY) $(IMAGES_LOCK) ## list the licences of what the images stand on
	@$(SUPPLY)/bin/python -m piplicenses --python $(BIN)/python --from mixed --order license \
	  --packages $$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' $(IMAGES_LOCK))

vulnerabilities: $(SUPPLY_READY) $(IMAGES_LOCK) ## ask whether anything in an image's lock has a known vulnerability; skipped where no advisory source answers
	@$(SUPPLY)/bin/python -m deploy.requirements.vulnerabilities $(IMAGES_LOCK)

lock: $(READY) ## lock the requirements again, from pyproject.toml
	@$(LOCKED) pyproject.toml --extra tools --extra desk --extra traces --group dev -o deploy/requirements/dev.txt
	@$(LOCKED) pyproject.toml --extra tools -c deploy/requirements/dev.txt -o deploy/requirements/runtime.txt
	@$(LOCKED) pyproject.toml --extra desk --extra traces -c deploy/requirements/dev.txt -o deploy/requirements/desk.txt
	@$(LOCKED) pyproject.toml --extra door --extra traces -c deploy/requirements/dev.txt -o deploy/requirements/door.txt
	@$(LOCKED) pyproject.toml --extra traces -c deploy/requirements/dev.txt -o deploy/requirements/service.txt
	@$(LOCKED) --group supply -o $(SUPPLY_LOCK)
	@$(LOCKED) tests/bench/peers/requirements.in -o $(PEERS_LOCK)

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .remit *.egg-info

$(READY): $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Remit needs Python 3.11 or newer: install it, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || \
	  { echo "Remit needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version): name another with PYTHON=..." >&2; exit 1; }
	@echo "Setting up the virtual environment in $(VENV) with $(PYTHON) (once, until the lock changes)"
	@$(PYTHON) deploy/local/virtual_environment.py $(LOCK) $(VENV) $(notdir $@)

$(PEERS_READY): $(PEERS_LOCK) | $(READY)
	@echo "Setting up the virtual environment of the peers in $(PEERS) (once, until their lock changes)"
	@[ -x $(PEERS)/bin/python ] || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $(PEERS_LOCK)
	@rm -f $(PEERS)/.ready-* && touch $@

# What is in any image, each package once.
$(IMAGES_LOCK): $(IMAGE_LOCKS)
	@mkdir -p $(@D) && awk '/^[^ ]/ { is_new = !seen[$$1]++ } is_new' $^ > $@.new && mv $@.new $@

$(SUPPLY_READY): $(SUPPLY_LOCK)
	@echo "Setting up the tools of the supply chain in $(SUPPLY) (once, until their lock changes)"
	@[ -x $(SUPPLY)/bin/python ] || $(PYTHON) -m venv $(SUPPLY)
	@$(SUPPLY)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $(SUPPLY_LOCK)
	@rm -f $(SUPPLY)/.ready-* && touch $@

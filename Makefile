# The only door: every target works on a fresh clone with make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .local/venv/bin/python
LOCAL := $(VENV) -m deploy.local

.DEFAULT_GOAL := help
.PHONY: help up down status logs psql tidemark demo check test helm-check alert-check image-check \
	pooler-check chart browser chaos bench bench-quick bench-report bench-needs lock clean bootstrap \
	helm-tools check-lint check-format check-types check-imports

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables of make up, here or in .env: CONSUMERS=1, INGEST_PORT=8080, KAFKA_PORT=9092"
	@echo "(and the next), POSTGRES_PORT=5440 (and the next 3), STATUS_PORT=8090 (one a consumer)."
	@echo "Another Python: make PYTHON=python3.12 …"

up: bootstrap ## Start broker, shards and services, or what is missing of them
	@$(LOCAL) up

down: ## End all of it, keep the data
	@test ! -x $(VENV) || $(LOCAL) down

status: ## Say what runs where; exit 0 if all of it is ready
	@test -x $(VENV) || { echo "· nothing is running; make up starts it"; exit 1; }
	@$(LOCAL) status

logs: ## Print the end of every log; FOLLOW=1 goes on
	@test -x $(VENV) || { echo "· nothing is running; make up starts it"; exit 1; }
	@$(LOCAL) logs $(if $(FOLLOW),--follow)

psql: ## Open psql on SHARD=shard-0, or run SQL="…" there
	@test -x $(VENV) || { echo "· nothing is running; make up starts it"; exit 1; }
	@$(LOCAL) psql $(or $(SHARD),shard-0)

tidemark: bootstrap ## Run the operators' command against this stack: ARGS="topics --help"
	@$(LOCAL) tidemark $(ARGS)

demo: bootstrap ## Send DEMO_UPDATES=50000 to a running stack and check every row
	@$(VENV) -m deploy.local.demo

check: bootstrap ## Check style, types and imports
	@$(MAKE) --no-print-directory -j 4 check-lint check-format check-types check-imports
	@echo "· style, types and imports are in order"

test: bootstrap ## Run all tests beside a running stack; ARGS="-k word" for some
	@$(VENV) -m pytest $(ARGS)

helm-check: bootstrap helm-tools ## Check the chart: lint, renders, schemas, guards, alert rules
	@$(VENV) -m pytest deploy/helm/checks
	@$(VENV) -m deploy.helm.check_rules

alert-check: bootstrap ## Check the alert rules and run their cases; builds promtool where it is missing
	@$(VENV) -m deploy.helm.tools promtool
	@$(VENV) -m deploy.helm.check_rules

image-check: bootstrap ## Lint the Dockerfile, and do its steps in a virtual environment
	@$(VENV) -m pytest tests/image

pooler-check: bootstrap ## Test everything that talks to shards through a real PgBouncer
	@$(VENV) -m pytest tests/pooler

chart: bootstrap ## Renew what is generated of the chart, golden renders where Helm is
	@$(VENV) -m deploy.helm.renew

browser: bootstrap ## Look at the status page with this machine's Chromium, and renew its pictures
	@$(VENV) -m pip install --quiet --require-hashes -r requirements/browser.txt
	@$(VENV) -m pytest deploy/monitoring/checks

chaos: bootstrap ## Cause faults for MINUTES=30 and judge every row; SEED=… again the same
	@$(VENV) -m tests.chaos

bench: bench-needs ## Measure beside others, for hours; ARM=… LOAD=… REPEATS=5 for a part
	@$(VENV) -m benchmarks run

bench-quick: bench-needs ## The key ratios, in a few minutes
	@$(VENV) -m benchmarks quick

bench-report: bench-needs ## Write benchmarks/RESULTS.md from the last run
	@$(VENV) -m benchmarks report

bench-needs: bootstrap
	@$(VENV) -m uv pip install --quiet --require-hashes -r requirements/bench.txt

lock: bootstrap ## Renew requirements/*.txt, and jars.lock where Maven is installed
	@$(VENV) -m deploy.local.lock_requirements
	@$(VENV) -m deploy.local.lock_jars

clean: ## End all of it, remove the data
	@test ! -x $(VENV) || $(LOCAL) clean

helm-tools: bootstrap
	@$(VENV) -m deploy.helm.tools helm

bootstrap:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no $(PYTHON): install Python 3.11 or newer, or name it with PYTHON=…"; exit 1; }
	@"$(PYTHON)" deploy/local/bootstrap.py

check-lint:
	@$(VENV) -m ruff check --quiet

check-format:
	@$(VENV) -m ruff format --check --quiet

check-types:
	@$(VENV) -m mypy --no-error-summary

check-imports:
	@$(VENV) -m deploy.local.lint_imports

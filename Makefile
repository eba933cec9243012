# EchoStream: `make demo` hears it translate, `make test` runs the tests. Both make .venv on the first run.

VENV ?= .venv
OUT ?= demo_out
SEGMENT ?= 320
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.11 python3.12 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; exit; }; \
	done; echo python3)
endif

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo live test lint bench venv sanitize clean

help:  ## what can be made
	@echo "make demo                  translate the bundled recordings, 320 ms at a time, into $(OUT)/"
	@echo "make demo WAV=my.wav       ... your own recording (any format and rate)"
	@echo "make demo TEXT=\"...\"       ... a sentence of the demo's domain, spoken by espeak"
	@echo "make live                  a page with a microphone, at http://127.0.0.1:8080/"
	@echo "make test                  the whole test suite"
	@echo "make lint                  ruff"
	@echo "make sanitize              the compiled operator's tests under gcc's sanitizers"
	@echo "make bench                 speed of encoders, sessions and batches, into benchmark/"
	@echo "make venv                  only the environment ($(VENV))"
	@echo "make clean                 remove the environment and the demo's output"
	@echo
	@echo "options: PYTHON=$(PYTHON) (3.10 to 3.12)  OUT=$(OUT)  SEGMENT=$(SEGMENT) (ms)  VENV=$(VENV)"

demo: $(STAMP)  ## simultaneous translation through SimulEval
	@$(PY) scripts/demo.py --output "$(OUT)" --segment-ms $(SEGMENT) $(if $(WAV),--wav "$(WAV)") $(if $(TEXT),--text "$$TEXT")

live: $(STAMP)  ## live translation in the browser
	@$(VENV)/bin/echostream serve

test: $(STAMP)
	$(PY) -m pytest -q -rs $(TESTS)

# The compiled operator's tests under the address and undefined-behaviour sanitizers of gcc.
sanitize: $(STAMP)
	$(PY) scripts/sanitize_operator.py

lint: $(STAMP)
	$(PY) -m ruff check .

bench: $(STAMP)
	$(VENV)/bin/echostream benchmark --threads 1 2 --quantize int8 --overwrite

venv: $(STAMP)

# TEXT goes through the environment, so that quotes in a sentence need no escaping.
export TEXT

# fairseq-fixed must build against the torch and numpy that are there, hence the order and --no-build-isolation.
$(STAMP): requirements-build.txt requirements.txt constraints.txt setup.py
	@$(PYTHON) scripts/check_environment.py
	@echo "making $(VENV) with $(PYTHON): about 5 GB, some minutes on the first run"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "[1/4] torch"
	@$(PIP) install -c constraints.txt -r requirements-build.txt
	@echo "[2/4] fairseq (built here, half a minute)"
	@$(PIP) install -q -c constraints.txt --no-build-isolation "$$(grep '^fairseq-fixed==' requirements.txt)"
	@echo "[3/4] everything else"
	@$(PIP) install -q -c constraints.txt --no-build-isolation -r requirements.txt
	@echo "[4/4] EchoStream itself"
	@$(PIP) install -q --no-build-isolation --no-deps -e .
	@touch $(STAMP)

clean:
	rm -rf $(VENV) $(OUT)

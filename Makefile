# Offbeat. `make help` lists what there is; every target sets up what it needs by itself.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
export OFFBEAT_CACHE ?= $(CURDIR)/$(CACHE)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo board clock pendant test check format soak bench lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(VENV)/ready $(CACHE)/stubs/ready $(CACHE)/programs  ## bring all that is needed into .venv and .cache

$(VENV)/ready: tools/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Offbeat needs Python 3.11 or later; set PYTHON=…")'
	@echo "setup: Python packages into $(VENV) (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --require-hashes --requirement tools/requirements.lock 2> >(grep -v '^WARNING: Location' >&2)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable . 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

# The stubs of MicroPython's modules would shadow real ones beside the other packages, so they have a folder of their own,
# in the shape that mypy wants of a replacement for its own stubs of the standard library.
$(CACHE)/stubs/ready: tools/stubs.lock $(VENV)/ready
	@echo "setup: type stubs of MicroPython into $(CACHE)/stubs"
	@rm -rf $(CACHE)/stubs
	@$(BIN)/pip install --quiet --no-deps --require-hashes --target $(CACHE)/stubs --requirement tools/stubs.lock \
		2> >(grep -v '^WARNING: Location' >&2)
	@mkdir -p $(CACHE)/stubs/stubs
	@cp -r $$($(BIN)/python -c 'import mypy, os; print(os.path.dirname(mypy.__file__))')/typeshed/stubs/mypy-extensions \
		$(CACHE)/stubs/stubs/
	@touch $@

# What `make bench` sets beside the server: its own copies of the same versions, in a folder of its own.
$(CACHE)/wyoming/ready: tools/wyoming.lock $(VENV)/ready
	@echo "setup: wyoming-faster-whisper, to compare with, into $(CACHE)/wyoming (450 MB)"
	@rm -rf $(CACHE)/wyoming
	@$(BIN)/pip install --quiet --no-deps --require-hashes --target $(CACHE)/wyoming --requirement tools/wyoming.lock \
		2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

$(CACHE)/programs: tools/host_programs.py tools/debian.py $(VENV)/ready
	@mkdir -p $(CACHE)
	@$(BIN)/python tools/host_programs.py
	@touch $@

demo: setup  ## speak a sentence into a simulated pendant and see it arrive; ONCE=1 ends by itself, WAV=file.wav speaks that
	@$(BIN)/python tools/demo.py $(if $(ONCE),--once) $(if $(WAV),--wav "$(WAV)")

board: setup  ## a simulated board on a pseudo-terminal, as on a cable; APP=clock|pendant or BOARD=name, FRESH=1 blank
	@$(BIN)/python tools/serial_board.py $(if $(APP),--app $(APP)) $(if $(BOARD),--board $(BOARD)) $(if $(FRESH),--fresh)

CABLE = $(if $(PORT),--port $(PORT)) $(if $(BOARD),--board $(BOARD))

clock: setup  ## firmware and settings onto the board that is plugged in; PORT=… and BOARD=… where they cannot be found
	@$(BIN)/python tools/offbeat-board install --app $@ $(CABLE)
	@$(BIN)/python tools/offbeat-board setup $(CABLE)

pendant: setup  ## the same for a pendant
	@$(BIN)/python tools/offbeat-board install --app $@ $(CABLE)
	@$(BIN)/python tools/offbeat-board setup $(CABLE)

# One process more than there are cores: many tests wait for a clock, a time-out or a server.
test: check  ## all tests (about ten minutes on two cores the first time)
	@$(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 5 --dist worksteal --durations 25

check: setup  ## lint and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --config-file tools/mypy-host.ini
	@$(BIN)/mypy --config-file tools/mypy-firmware.ini

format: setup  ## let ruff format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

soak: setup  ## the long tests
	@$(BIN)/python -m pytest -m soak

lock: $(VENV)/ready  ## resolve pyproject.toml anew into tools/requirements.lock
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
		--no-emit-options --allow-unsafe --strip-extras --extra dev -o tools/requirements.lock pyproject.toml
	@echo 'micropython-esp32-stubs>=1.25,<2' | $(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-options --no-annotate -o tools/stubs.lock -
	@echo 'wyoming-faster-whisper>=3.8,<4' | $(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-options --strip-extras --no-annotate \
		-c tools/requirements.lock -o tools/wyoming.lock -

bench: setup $(CACHE)/wyoming/ready  ## what it costs: instructions a sample, the server beside bare faster-whisper
	@$(BIN)/python tools/bench.py

clean:  ## remove what was set up
	@rm -rf $(VENV) $(CACHE) build *.egg-info server/*.egg-info

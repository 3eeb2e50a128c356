# Every target does its own set-up and is quick when there is nothing left to do.
SHELL := /bin/bash
PYTHON := /usr/bin/python3
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
VENV := .venv
# For tests and development: build/bin has launchers of this checkout, build/share
# the guest image, build/configuration.toml a configuration that points to both.
IMAGE_DIR := build/share
ARGS ?=

.PHONY: demo test lint image kernel bench plots proto setup install uninstall clean

# The set-up is written in Python, which a minimal Debian lacks.
$(PYTHON):
	@echo "==> installing python3"
	@$(SUDO) sh -c 'apt-get -qq update && $(APT_INSTALL) python3' >/dev/null

setup: | $(PYTHON)
	@$(SUDO) $(PYTHON) -m tools.setup

test: setup
	@$(SUDO) $(VENV)/bin/python -m pytest $(ARGS)

lint: setup
	@$(VENV)/bin/ruff format --check src tests tools bench
	@$(VENV)/bin/ruff check src tests tools bench
	@$(VENV)/bin/mypy

image: setup
	@$(SUDO) build/bin/kata-image build --output $(IMAGE_DIR) $(ARGS)

kernel: setup
	@$(SUDO) build/bin/kata-image kernel --output $(IMAGE_DIR) $(ARGS)

# One part of it compares with our own kernel.
bench: kernel
	@$(SUDO) $(VENV)/bin/python -m bench $(ARGS)

plots: setup
	@$(VENV)/bin/python -m pip --disable-pip-version-check -q install -e '.[plots]'
	@$(VENV)/bin/python -m bench.plots $(ARGS)

proto: setup
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" python -m tools.proto

install: | $(PYTHON)
	@$(SUDO) $(PYTHON) -m tools.install

uninstall:
	@$(SUDO) $(PYTHON) -m tools.install --remove

demo: install
	@$(SUDO) $(PYTHON) -m tools.demo

clean:
	@$(SUDO) rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis

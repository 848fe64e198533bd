# Two commands do all set-up on a Linux machine that has Python 3.11 and make:
#   make demo   segments a bundled microscopy image with the bundled model and says where the results are
#   make test   runs every test
#   make doc    builds the documentation as web pages

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DEMO_OUTPUT ?= demo_output
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
DISPLAY_SIZE = 1920x1080x24

# Large blocks of memory are used again instead of mapped anew, which is slow in virtual machines (read by glibc alone).
export MALLOC_MMAP_THRESHOLD_ = 8589934592
export MALLOC_TRIM_THRESHOLD_ = 17179869184

.PHONY: demo test doc lint clean help

help:
	@sed -n 's/^#  *make/make/p' Makefile

# The stamps remember that an installation finished: an interrupted one starts again.
$(BIN)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "micro_sam needs Python 3.11 or newer, $(PYTHON) is %d.%d: set PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(BIN)/.installed: $(BIN)/.created pyproject.toml
	@echo "Installing micro_sam and what it needs into $(VENV) (PyTorch is several GB the first time) ..."
	$(PIP) install --upgrade "pip>=23.2"
	$(PIP) install --editable .
	@touch $@

$(BIN)/.installed-test: $(BIN)/.installed
	@echo "Installing the test extras into $(VENV) ..."
	$(PIP) install --editable ".[gui,test]"
	@touch $@

demo: $(BIN)/.installed
	@mkdir -p $(DEMO_OUTPUT)
	$(BIN)/micro_sam.automatic_segmentation --sample --model_type vit_t_builtin \
		--output_path $(DEMO_OUTPUT)/labels.tif --overlay $(DEMO_OUTPUT)/overlay.png

test: $(BIN)/.installed-test
	@.ci/system_packages
	@if command -v xvfb-run >/dev/null 2>&1; then \
		xvfb-run -a -s "-screen 0 $(DISPLAY_SIZE)" $(BIN)/python -m pytest $(PYTEST_ARGS); \
	else \
		$(BIN)/python -m pytest $(PYTEST_ARGS); \
	fi

$(BIN)/.installed-doc: $(BIN)/.installed
	@echo "Installing what builds the documentation into $(VENV) ..."
	$(PIP) install --editable ".[doc]"
	@touch $@

doc: $(BIN)/.installed-doc
	$(BIN)/sphinx-build -q -W --keep-going -b html doc doc/_build/html
	@echo "The documentation is in doc/_build/html/index.html"

lint: $(BIN)/.installed-test
	$(BIN)/ruff check

clean:
	rm -rf $(VENV) $(DEMO_OUTPUT) build dist *.egg-info

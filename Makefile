# make demo   trains, renders and measures the bundled scene
# make test   runs the test suite
#
# Both first make a virtual environment in .venv; a second time they only rebuild what changed.
#
#   PYTHON        the interpreter to build it from            make test PYTHON=python3.12
#   TORCH         the torch to install                        make demo TORCH=torch==2.11.0
#   TORCH_INDEX   a package index with the torch build you want: CPU-only, or for a certain CUDA version

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv

python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check --quiet
submodules := diff-gaussian-rasterization fused-ssim simple-knn
installed := $(submodules:%=$(VENV)/%.installed)

.PHONY: all install demo test test-long bench clean
.DELETE_ON_ERROR:

all: install

install: $(installed)

$(VENV)/torch.installed:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0])'
	@c++ --version > /dev/null || { echo "a C++ compiler is needed (g++ or clang++)" >&2; exit 1; }
	@echo "Setting up $(VENV): torch first, a few minutes on a slow line"
	$(PYTHON) -m venv $(VENV)
	$(pip) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@touch $@

$(VENV)/requirements.installed: requirements.txt $(VENV)/torch.installed
	$(pip) install -r requirements.txt
	@touch $@

# The kernels. Built in a folder that is kept, so that a change costs seconds.
.SECONDEXPANSION:
$(installed): $(VENV)/%.installed: $(VENV)/requirements.installed $$(shell find submodules/common submodules/$$* -type f -not -path '*/__pycache__/*')
	@echo "Building $*"
	PATH="$(abspath $(VENV))/bin:$$PATH" $(pip) install --force-reinstall --no-deps --no-build-isolation -Cbuild-dir=$(abspath $(VENV))/build/$* ./submodules/$*
	@touch $@

demo: install
	$(python) train.py -s data/demo -m output/demo --eval --iterations 5000 --test_iterations 1000 5000 --save_iterations 5000 --overwrite
	$(python) render.py -m output/demo
	$(python) metrics.py -m output/demo
	@echo
	@echo "Pictures: output/demo/test/ours_5000/renders beside output/demo/test/ours_5000/gt"
	@echo "Model:    output/demo/point_cloud/iteration_5000/point_cloud.ply, for any 3DGS viewer"

test: install
	$(python) -m pytest

test-long: install
	$(python) -m pytest -m ""

bench: install
	$(python) benchmarks/train_step.py --threads 1

clean:
	rm -rf $(VENV)

# make demo   trains, renders and measures the bundled scene
# make test   runs the test suite
# make extras adds what single commands need: convert.py, videos, export.py, view.py
# make lint   checks that the Python code is formatted, in lines of 110 columns
#
# Both first make a virtual environment in .venv; a second time they only rebuild what changed.
#
#   PYTHON        the interpreter to build it from, 3.10 to 3.13   make test PYTHON=python3.12
#   TORCH         the torch to install                             make demo TORCH=torch==2.11.0
#   TORCH_INDEX   a package index with the torch build you want: CPU-only, or for a certain CUDA version
#   CUDA          OFF leaves the CUDA kernels out, REQUIRED fails without a CUDA compiler; AUTO, the default, looks for one
#   CUDA_ARCHITECTURES  the GPUs to compile for, such as "80;90": the one at hand if not given, or any from 75 on
#   LPIPS_WEIGHTS VGG16's weights, with which the demo measures LPIPS too

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv# relative to the checkout, without spaces
DEMO_ITERATIONS ?= 2800
CUDA ?= AUTO
CUDA_ARCHITECTURES ?=
EMULATED ?= ON
SANITIZE ?=
SANITIZED ?=
KERNEL_FOLDER ?=# a folder for the kernels, instead of the environment
LPIPS_WEIGHTS ?=

python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check --quiet
submodules := diff-gaussian-rasterization fused-ssim simple-knn
torch := $(VENV)/$(subst /,_,$(TORCH)).installed# another TORCH is installed anew
kernels := $(if $(KERNEL_FOLDER),$(KERNEL_FOLDER),$(VENV))
installed := $(submodules:%=$(kernels)/%.installed)
demo := output/demo
demo_model := $(demo)/point_cloud/iteration_$(DEMO_ITERATIONS)/point_cloud.ply

.PHONY: all install extras demo lint test test-long test-sanitize test-asan test-tsan gpu-smoke gpu-check gpu-compare bench clean
.DELETE_ON_ERROR:

all: install

install: $(installed)

# Python 3.10 brings a pip without the options for the kernels.
$(torch):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13) and "Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0])'
	@c++ --version > /dev/null || { echo "a C++ compiler is needed (g++ or clang++)" >&2; exit 1; }
	@echo "Setting up $(VENV): torch first, a few minutes on a slow line"
	$(PYTHON) -m venv $(VENV)
	$(pip) install "pip>=23.1"
	$(pip) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@touch $@

$(VENV)/requirements.installed: requirements.txt $(torch)
	$(pip) install -r requirements.txt
	@touch $@

# The kernels, with CUDA where there is a compiler for it (CUDA=OFF: without). The tests run the CUDA kernels on the
# CPU too, hence the emulation. Built in a folder that is kept, so that a change costs seconds.
kernel_options := -Ccmake.define.GS_EMULATED_CUDA=$(EMULATED) -Ccmake.define.GS_CUDA=$(CUDA) \
    $(if $(CUDA_ARCHITECTURES),"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)") \
    $(if $(SANITIZE),-Ccmake.define.GS_SANITIZE=$(SANITIZE))
kernel_place := $(if $(KERNEL_FOLDER),--upgrade --target $(KERNEL_FOLDER),--force-reinstall)
.SECONDEXPANSION:
$(installed): $(kernels)/%.installed: $(VENV)/requirements.installed $$(shell find submodules/common submodules/$$* -type f -not -path '*/__pycache__/*')
	@echo "Building $*"
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(pip) install $(kernel_place) --no-deps --no-build-isolation "-Cbuild-dir=$(CURDIR)/$(kernels)/build/$*" $(kernel_options) ./submodules/$*
	@touch $@

demo: install $(demo_model)
	$(python) render.py -m $(demo)
	$(python) metrics.py -m $(demo) $(if $(LPIPS_WEIGHTS),--lpips_weights $(LPIPS_WEIGHTS),--skip_lpips)
	$(python) report.py -m $(demo)
	@echo
	@echo "3dgs:     $(demo_of_3dgs)"
	@echo "Pictures: $(demo)/test/ours_$(DEMO_ITERATIONS)/renders beside $(demo)/test/ours_$(DEMO_ITERATIONS)/gt"
	@echo "Model:    $(demo_model), for any 3DGS viewer"
	@echo "Delete $(demo) to train it again."

# --variant 3dgs --scale_schedule --iterations 2800, on the same two cores at 873eb48; the demo took 55 s.
demo_of_3dgs := 238,248 Gaussians, 25.57 dB, SSIM .840 after 2,800 iterations in 66 s
# Trained once, by the method: rendering and measuring it again takes seconds.
demo_flags := --iterations $(DEMO_ITERATIONS) --test_iterations 1000 $(DEMO_ITERATIONS)
$(demo_model): | install
	$(python) train.py -s data/demo -m $(demo) --eval $(demo_flags) --overwrite

extras: $(VENV)/extras.installed

$(VENV)/extras.installed: requirements-extras.txt $(VENV)/requirements.installed
	$(pip) install -r requirements-extras.txt
	@$(pip) install atheris || echo "no atheris for this Python: the readers will not be fuzzed"
	@touch $@

lint: $(VENV)/requirements.installed
	$(python) -m ruff format --check .
	$(python) -m ruff check .

test: install extras
	$(python) -m pytest

test-long: install extras
	$(python) -m pytest -m ""

# The kernels of the CPU, and those of CUDA emulated there, under AddressSanitizer and UndefinedBehaviorSanitizer;
# those of the CPU under ThreadSanitizer. In folders of their own; Python and torch leak by design.
kernel_tests := tests/test_simple_knn.py tests/test_fused_ssim.py tests/test_importance_network.py \
    tests/test_rasterizer*.py
preload = LD_PRELOAD="$$(c++ -print-file-name=lib$(1).so) $$(c++ -print-file-name=libstdc++.so)"

test-sanitize: test-asan test-tsan

test-asan:
	$(MAKE) install KERNEL_FOLDER=$(VENV)-asan CUDA=OFF SANITIZE=address
	$(call preload,asan) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    PYTHONPATH=$(CURDIR)/$(VENV)-asan $(python) -m pytest --capture=sys $(SANITIZED) $(kernel_tests)

test-tsan:
	$(MAKE) install KERNEL_FOLDER=$(VENV)-tsan CUDA=OFF SANITIZE=thread EMULATED=OFF
	$(call preload,tsan) TSAN_OPTIONS="exitcode=66 ignore_noninstrumented_modules=1" \
	    PYTHONPATH=$(CURDIR)/$(VENV)-tsan $(python) -m pytest --capture=sys -k "not emulated" $(kernel_tests)

# On a machine with a GPU, with what is installed there: no environment, no network (docs/gpu.md).
gpu-smoke:
	$(PYTHON) scripts/gpu_smoke.py

gpu-check:
	$(PYTHON) scripts/gpu_check.py

gpu-compare:
	$(PYTHON) benchmarks/gpu_step.py --profile --gsplat

bench: install
	$(python) benchmarks/train_step.py --threads 1

clean:
	rm -rf $(VENV) $(VENV)-asan $(VENV)-tsan

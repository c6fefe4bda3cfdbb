# Needs python3 (3.10 to 3.14) and a package index. VENV=DIR puts the virtual environment elsewhere, TEST_JOBS=N runs
# tests in N processes; EXTRAS=test,onnx has those of an extra run too.
PYTHON ?= python3
VENV ?= .venv
TEST_JOBS ?= 2
EXTRAS ?= test
RUN := $(VENV)/bin/python
DATA := datasets/synthetic_sar
TRAIN := $(RUN) tools/lazyconfig_train_net.py
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow campaign lint install reference clean-demo

install: $(VENV)/.installed
	@echo '$(VENV) has the command loradet: . $(VENV)/bin/activate'

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

# FAST=1 leaves the linear probe out.
demo: $(VENV)/.installed
	$(RUN) tools/datasets.py synthetic $(DATA) --style sar --size 192 --train 800 --val 150 --test 0
	$(TRAIN) --config-file configs/quickstart.py --resume
ifndef FAST
	$(TRAIN) --config-file configs/quickstart_linear_probe.py --resume
endif
	$(RUN) tools/visualize.py --config-file configs/quickstart.py --checkpoint work_dirs/quickstart/model_best.pth \
	    --split val --num-images 8 --contact-sheet --output work_dirs/quickstart/detections.png
	$(RUN) tools/compare_runs.py work_dirs/quickstart $(if $(FAST),,work_dirs/quickstart_linear_probe)

clean-demo:
	rm -rf work_dirs/quickstart work_dirs/quickstart_linear_probe $(DATA)

# The pages of docs/reference/, from the code; a test says when that is due.
reference: $(VENV)/.installed
	$(RUN) docs/make_reference.py

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $$($(RUN) docs/make_api.py --typed)

# One thread a process: two processes of tests on two cores would only wait for each other's threads.
test: export OMP_NUM_THREADS ?= 1
test: lint
	$(RUN) -m pytest -n $(TEST_JOBS) --dist loadfile

# Trainings killed at every file that they commit and at random, and full disks: docs/reliability.md.
campaign: $(VENV)/.installed-test
	$(RUN) -m pytest -m '' -s tests/campaign

# Everything, the minutes-long tests included.
test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -m ''

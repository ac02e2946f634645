# Two commands for a fresh machine: `make demo` and `make test`. Python 3.11 or newer is all they need.
SHELL := bash
.SHELLFLAGS := -e -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
# Exact versions of the tested environment, except for the CUDA libraries, which torch pins itself.
CONSTRAINTS ?= constraints.txt
DEMO := scale=demo resume=true
TRUTH = scale=demo truth=demo/truth/track$*_test_truth.json

.DEFAULT_GOAL := help
.PHONY: help install demo demo-track1 demo-track2 report test test-fast test-slow check bench

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: .venv/.installed  ## make .venv with the tested versions in it; CONSTRAINTS= takes the newest

.venv/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(addprefix -c ,$(CONSTRAINTS)) '.[dev,export,report,search]'
	echo $(CONSTRAINTS) > $@

demo: install  ## the main job on data made here: both tracks, every stage, demo/results/track{1,2}/report.html
	$(BIN)/python -m src.datamodules.synthetic demo
	@$(MAKE) --no-print-directory -j2 demo-track1 demo-track2
	@for track in 1 2; do echo; $(BIN)/python -m src.report.comparison of=votes track=$$track results_dir=demo/results logs_dir=demo/logs; done
	@echo "baselines: plain training; background: our recipe; all: the published chain (demo/results/track{1,2}/report.html)"
	@echo "in-domain: held-out images of the training contexts; test: contexts that the class was not trained on"

# Side by side, a core each: quicker on two cores than one after the other on both.
demo-track1 demo-track2: demo-track%:
	@export OMP_NUM_THREADS=1; { \
	$(BIN)/python train.py track=$* stage=baseline mixing=none $(DEMO); \
	$(BIN)/python train.py track=$* stage=wsss $(DEMO) wsss.truth_dir=demo/truth/masks; \
	$(BIN)/python train.py -m track=$* stage=moco,finetune,fdg $(DEMO); \
	$(BIN)/python train.py -m track=$* stage=adapt mixing.ratio=0.2,0.5,0.8 $(DEMO); \
	$(BIN)/python train.py track=$* stage=grabcut $(DEMO) wsss.truth_dir=demo/truth/masks; \
	$(BIN)/python train.py track=$* stage=finetune recipe=background $(DEMO); \
	$(BIN)/python predict.py track=$* ensemble=baselines $(TRUTH); \
	$(BIN)/python predict.py track=$* 'ensemble.stages=[finetune]' 'ensemble.runs=[*-background]' vote_name=background $(TRUTH); \
	$(BIN)/python predict.py track=$* ensemble=all $(TRUTH) report=true object_masks=demo/truth/masks; \
	} 2>&1 | sed -u 's/^/track $* | /'

report: install  ## results/track{1,2}/report.html of the finished runs; OVERRIDES="ensemble=baselines ..." changes settings
	$(BIN)/python predict.py -m track=1,2 report=true $(OVERRIDES)

test: install  ## the tests, except the slow ones
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-fast: install  ## only those that train nothing, in a minute
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not training"

test-slow: install  ## the slow ones: kills, signals, fuzz
	$(BIN)/python -m pytest -q -n 2 -m slow

check: install  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## the figures of docs/speed.md; what is not among them is named there
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.views
	$(BIN)/python -m benchmarks.mixing
	$(BIN)/python -m benchmarks.masks
	$(BIN)/python -m benchmarks.votes

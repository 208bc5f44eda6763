# make demo         show the whole idea in a few minutes, on images inside the package; writes runs/demo/report.html
# make test         run lint, types and tests, as .ci/run does
# make lint         run the linters and mypy alone
# make test-faults  kill a run, a conversion or a preparation wherever that is possible; slow, prints a table
# make test-fuzz    read thousands of damaged files of all kinds; prints a table; FILES=100000 SEED=7 for more, and others
# make bench        measure the speed of the shipped checkpoint: recurrence against convolution and Transformer
# make bench-core   measure what kernels and layers cost against N, H and L; writes runs/bench-core.json
# make docs         build the documentation site into site/, and the manual page; warnings are errors
# make clean        remove .venv and what the tools leave behind, but never runs/
#
# The first target that you make also makes .venv, with all that is needed in it. To use another Python:
# make PYTHON=python3.12 test

PYTHON ?= python3
BIN := .venv/bin

# Where the environment forbids Python to keep what it has compiled, each of the many processes that tests start would
# compile all of s4gen again.
export PYTHONDONTWRITEBYTECODE :=
READY := .venv/.installed

.PHONY: demo docs test test-faults test-fuzz lint bench bench-core clean

demo: $(READY)
	$(BIN)/s4gen demo

# One process per core (four at most), each with one thread: the models of the tests are too small to gain by more. A
# process gets neighbouring tests, because these share what is set up for a module; one that is done takes tests from
# the others.
test: lint
	$(BIN)/pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

test-faults: $(READY)
	$(BIN)/pytest -m faults -q -n auto --maxprocesses 4 --dist worksteal

FILES := 3000
SEED := 1

test-fuzz: $(READY)
	PYTHONPATH=tests $(BIN)/python -m fuzz --files $(FILES) --seed $(SEED)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy s4gen

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/s4gen bench checkpoints/mnist-small --batch 1 64 \
	  --engine eager compiled native native-bf16 native-int8 --baseline conv transformer

bench-core: $(READY)
	$(BIN)/s4gen bench core --out runs/bench-core.json --force

DOCS := .venv/.installed-docs

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/argparse-manpage --module s4gen.cli --function make_parser --project-name s4gen \
	  --description "density models from state space layers" --output site/s4gen.1

$(DOCS): $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "s4gen needs Python 3.11 or newer, but '$(PYTHON)' is not (or is not there): make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

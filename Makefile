# Two commands do everything: `make demo` and `make test`. Each builds .venv by itself.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made
RESULTS := tests/benchmarks/results
# Those that look at one finished run, whose making takes a while.
RUNS := tests/flows/test_resume.py tests/flows/test_again.py tests/flows/test_runs.py
TRAINING := tests/pipeline/training
# The version that is tested here; the newest that has a CPU build without gigabytes of CUDA beside it.
TORCH := 2.13.0

.PHONY: demo test test-runs test-commands test-chaos test-parts test-training slow chaos bench fuzz quality stacked-mnist emoji64 gpu-check lint lock clean

# The job itself on real images: shard, train, register, look up, generate.
demo: $(STAMP)
	$(BIN)/ganline run mnist
	$(BIN)/ganline generate mnist@champion -n 80 --out mnist.png

# After a demo: an independent reader of its digits, their variety, and whether they are copies.
quality: $(STAMP)
	$(BIN)/python tests/benchmarks/digits.py

# The measured comparisons of the data path, of the training step, of the loop, of workers, of evaluation, of look-ups
# and of the service, both sides in the same run; two hours on two quiet cores. A bar that is missed does not keep the
# others from being measured.
bench: $(STAMP)
	-$(BIN)/python tests/benchmarks/reading.py --json $(RESULTS)/reading.json
	-$(BIN)/python tests/benchmarks/sharding.py --out $(RESULTS)/sharding.json
	-$(BIN)/python tests/benchmarks/growing.py --out $(RESULTS)/growing.json
	-$(BIN)/python tests/benchmarks/plan_memory.py --out $(RESULTS)/plan_memory.json
	-$(BIN)/python tests/benchmarks/decoding.py
	-$(BIN)/python tests/benchmarks/step.py --out $(RESULTS)/step.json
	-$(BIN)/python tests/benchmarks/step.py --options "" --out $(RESULTS)/step_options.json
	-$(BIN)/python tests/benchmarks/r3gan.py --out $(RESULTS)/r3gan.json
	-$(BIN)/python tests/benchmarks/r3gan.py --bf16 --out $(RESULTS)/r3gan_bf16.json
	-$(BIN)/python tests/benchmarks/whole_loop.py --out $(RESULTS)/whole_loop.json
	-$(BIN)/python tests/benchmarks/two_workers.py --out $(RESULTS)/two_workers.json
	-$(BIN)/python tests/benchmarks/first_step.py --out $(RESULTS)/first_step.json
	-$(BIN)/python tests/benchmarks/evaluating.py --out $(RESULTS)/evaluating.json
	-$(BIN)/python tests/benchmarks/looking_up.py --out $(RESULTS)/looking_up.json
	-$(BIN)/python tests/benchmarks/serving.py --out $(RESULTS)/serving.json

# How many of 1,000 modes a generator finds, with R3GAN's losses and without: an hour on two cores. Stopped at
# any time, the same command goes on.
stacked-mnist: $(STAMP)
	$(BIN)/python tests/benchmarks/stacked_mnist.py --minutes 20

# Fetches the emoji with npm and trains on them for an hour of steps; likewise.
emoji64: $(STAMP)
	$(BIN)/python tests/benchmarks/emoji.py --minutes 60

# For the first machine with a GPU: does all that is promised hold there, how fast, in what memory? Without CUDA: exit 2.
gpu-check: $(STAMP)
	$(BIN)/python tests/benchmarks/gpu_check.py

# What starts whole commands waits a good part of its time for services to start, so three run side by side; the longest
# begins first. One thread in each: where threads of three would have two cores, each waits at every operation until the
# other gets its turn, and a step takes twenty times as long.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --keep-going --jobs=3 --output-sync=target lint test-commands test-runs test-parts test-training test-chaos

test-runs: $(STAMP)
	$(BIN)/pytest $(RUNS) tests/benchmarks

test-commands: $(STAMP)
	$(BIN)/pytest tests/flows $(RUNS:%=--ignore=%)

test-chaos: $(STAMP)
	$(BIN)/pytest tests/chaos -m quick

test-training: $(STAMP)
	$(BIN)/pytest $(TRAINING)

test-parts: $(STAMP)
	$(BIN)/pytest $(TRAINING:%=--ignore=%) --ignore=tests/flows --ignore=tests/chaos --ignore=tests/benchmarks

# Of what `make test` tries for one family of networks or one number of ranks, the others; and what benchmarks are made
# of, the GPU check's rehearsal among it.
slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# Every way in which a run may be killed, stopped, starved or lied to, and what is promised in seconds, which `make test`
# has no quiet machine for: the better part of an hour on two cores.
chaos: $(STAMP)
	rm -f $(RESULTS)/chaos.json
	GANLINE_ALONE=1 CHAOS_REPORT=$(RESULTS)/chaos.json $(BIN)/pytest tests/chaos
	GANLINE_ALONE=1 $(BIN)/pytest $(shell grep -rl 'from hurry import' tests/flows tests/pipeline)

# What `make test` tries with 300 inputs, with many; other ones each time.
fuzz: $(STAMP)
	FUZZ_INPUTS=20000 $(BIN)/pytest tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ganline needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Resolves pyproject.toml anew; look at the difference before you commit it. A +cpu is cut off: the lock is for GPUs too.
lock:
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check setuptools torch==$(TORCH) '.[dev]'
	$(BIN)/pip freeze --all --exclude ganline --exclude pip | sed 's/^\(torch==[^+]*\)+.*/\1/' > requirements.lock

# Leaves .ganline: your datasets, runs and releases.
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info mnist.png

# make demo     set up .venv, make out/demo.mp4 with the embedded model
# make test     set up .venv, run the tests
# make check    style, formatting, rooms
# make nightly  what is slower than CI allows: whether the tests notice mistakes (tests/mutants.py; some minutes), and the
#               archives that people install, from a clean environment (tests/test_installed.py; needs a package index)
# make coverage run the tests, list the core's files of which they run less than 90 per cent
# make tiny     the whole line at its smallest: puppets, training, a video (a few minutes)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TINY := out/tiny
PYTEST_FLAGS ?= -n 2 --dist loadfile

# Idle threads that spin starve the others; and nothing may need the network once installed.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1

.PHONY: demo test check nightly coverage tiny clean

demo: $(INSTALLED)
	@$(BIN)/python examples/demo.py --out out

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests/test_rooms.py tests/test_readme.py

nightly: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly

coverage: $(INSTALLED)
	rm -rf out/coverage && mkdir -p out/coverage
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest $(PYTEST_FLAGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --sort=cover | awk '$$NF + 0 < 90 || /^TOTAL/'

tiny: $(INSTALLED)
	$(BIN)/openloopy puppet $(TINY)/shards --num-clips 6 --clip-s 6 --size 64
	$(BIN)/openloopy train tiny --data $(TINY)/shards --run $(TINY)/run
	$(BIN)/python examples/demo.py --out $(TINY) --model $(TINY)/run/model

$(INSTALLED): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else \
	  f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV): about 2 GB, some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[app,serve,credentials,heic,jxl,train,puppet,demo,data,speech,voices,dev]'
	@touch $@

clean:
	rm -rf $(VENV) out

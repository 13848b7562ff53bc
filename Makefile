# Everything runs in .venv, which setup.sh makes and fills the first time. Settings: PYTHON, TORCH_INDEX_URL.
READY := .venv/ready

LEAST := .venv-lowest/ready

.PHONY: demo test test-long test-optional test-lowest lint-matrix verify prove mutants fuzz docs claims synth-check format clean

demo: $(READY)
	@.venv/bin/fgmp demo

test: $(READY)
	@.venv/bin/python -m pytest -n 2 --dist loadgroup -q -m "not long"

# What takes longest: whole programs from their first line to their last, large engines, tests of the benches themselves.
test-long: $(READY)
	@.venv/bin/python -m pytest -n 2 --dist loadgroup -q -m long

# The tests about tools that are optional: Icarus Verilog, FST waveforms, Chromium.
test-optional: $(READY)
	@.venv/bin/python -m pytest -q -m optional

# Formats, selector, views and gates of all units, models and reports with the least versions that pyproject.toml admits
# (Python 3.11), in a virtual environment of their own. What those say of the newer packages below them does not count.
test-lowest: $(LEAST)
	@.venv-lowest/bin/python -m pytest -n 2 --dist loadgroup -q -W ignore::DeprecationWarning tests/test_formats.py \
	    tests/test_codec.py tests/test_blocks.py tests/test_packing.py tests/test_selector.py tests/test_layers.py \
	    tests/test_model.py tests/test_readers.py tests/test_report.py tests/test_gemm_lane.py tests/test_waves.py \
	    tests/test_saif.py

# Every preset with every legal value of every parameter through Verilator's lint: a quarter of an hour.
lint-matrix: $(READY)
	@.venv/bin/python -m pytest -n 2 -q tests/test_parameters.py --whole-matrix

# All that finds faults in the Verilog, in its long form: the long tests, and every value of every parameter, linted and
# simulated. An hour or two.
verify: test-long
	@.venv/bin/python -m pytest -n 2 --dist loadgroup -q tests/test_parameters.py tests/test_every_value.py --whole-matrix

# Every proof, docs/proofs.md: ten minutes.
prove: $(READY)
	@.venv/bin/fgmp prove --workers 2

# Faults planted in a lane, a selector and an engine, a thousand each; hours, may be stopped and continued.
mutants: $(READY)
	@.venv/bin/fgmp mutants --workers 2; netlist=$$?; .venv/bin/fgmp mutants --in source --workers 2 && exit $$netlist

# Every reader of files under changed files, coverage-guided where atheris is installed. SECONDS each, default half an hour.
SECONDS ?= 1800
fuzz: $(READY)
	@for target in packed folder foreign liberty sweep prices report; do .venv/bin/python -m fuzz $$target --seconds $(SECONDS) || exit 1; done

# The documentation as a site, out/site/index.html; warnings are errors. The notebook runs where it or the code changed.
docs: $(READY)
	@.venv/bin/python -m sphinx -q -b html -W --keep-going docs out/site && echo "written: out/site/index.html"

# The figures of the documents: runs what out/claims does not hold yet, an hour in all. LIBERTY=FILE
claims: $(READY)
	@.venv/bin/fgmp claims $(if $(LIBERTY),--liberty $(LIBERTY)) --publish .

synth-check: $(READY)
	@.venv/bin/python -m pytest -q tests/test_synth.py -k "by_hand or opensta"

format: $(READY)
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

clean:
	rm -rf .venv .venv-lowest out

$(READY): setup.sh pyproject.toml constraints.txt
	@./setup.sh $(READY)

$(LEAST): $(READY) .ci/lowest.py
	@mkdir -p out && .venv/bin/python .ci/lowest.py > out/lowest.txt
	@.venv/bin/python -m venv --clear .venv-lowest
	@.venv-lowest/bin/python -m pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$$(grep '^torch==' constraints.txt)"
	@.venv-lowest/bin/python -m pip install --quiet -c out/lowest.txt -e '.[all]' pytest pytest-xdist hypothesis ml_dtypes gfloat pyyaml
	@touch $(LEAST)

# Everything runs in .venv, which setup.sh makes and fills the first time. Settings: PYTHON, TORCH_INDEX_URL.
READY := .venv/ready

.PHONY: demo test synth-check format clean

demo: $(READY)
	@.venv/bin/fgmp demo

test: $(READY)
	@.venv/bin/python -m pytest -n 2 --dist loadgroup -q

synth-check: $(READY)
	@.venv/bin/python -m pytest -q tests/test_synth.py -k "by_hand or opensta"

format: $(READY)
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

clean:
	rm -rf .venv out

$(READY): setup.sh pyproject.toml constraints.txt
	@./setup.sh $(READY)

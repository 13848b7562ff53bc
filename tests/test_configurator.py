"""The documentation's configurator: its script computes what Python computes, number by number."""

import importlib.util
import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.hdl.config import EngineConfig, preset
from fgmp.hdl.design import build
from fgmp.hdl.engine.rate import GemmLoad, gemm_rate
from fgmp.quantizer.model.language_model import SHIPPED_MODEL
from fgmp.quantizer.prices import Prices
from fgmp.sim.rate import RateRequest, Shape, model_shapes, rate_model

from .conftest import ROOT

mini_racer = pytest.importorskip("py_mini_racer")


def _page():
    spec = importlib.util.spec_from_file_location("configurator_page", ROOT / "docs" / "configurator_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = _page()
DATA = PAGE.data(lane_um2=1.0, measured={0.5: 0.9, 0.7: 0.8})


@pytest.fixture(scope="module")
def script():
    """Calls a function of the script with JSON arguments after the data."""
    context = mini_racer.MiniRacer()
    context.eval((ROOT / "docs" / "static" / "configurator_model.js").read_text())
    context.eval(f"const data = {json.dumps(DATA)};")

    def call(name, *arguments):
        text = ", ".join(map(json.dumps, arguments))
        return json.loads(context.eval(f"JSON.stringify({name}(data, {text}))"))

    return call


def engines():
    return st.builds(
        lambda lanes, streams, rows, slots, order: EngineConfig(
            lanes=lanes, weight_streams=streams, rows=rows, slots=slots, packed_output=lanes >= 16, row_order=order,
            k_max=11008,
        ),
        st.sampled_from((16, 32, 64)), st.sampled_from((1, 2, 4)), st.sampled_from((8, 16, 32, 64, 128)),
        st.sampled_from((2, 4, 8, 16, 32)), st.sampled_from(("precision", "ascending")),
    )  # fmt: skip


@given(
    engine=engines(),
    sizes=st.tuples(st.integers(1, 900), st.integers(1, 700), st.integers(1, 4100)),
    share=st.integers(0, PAGE.SHARES),
    raw=st.booleans(),
    stream=st.floats(0.25, 16),
)
@settings(max_examples=60)
def test_a_product_takes_what_python_says(script, engine, sizes, share, raw, stream):
    fp4 = share / PAGE.SHARES
    load = GemmLoad(rows=sizes[0], outputs=sizes[1], columns=sizes[2], weight_fp4=fp4, activation_fp4=fp4, raw=raw)
    found = script("gemmRate", asdict(engine), asdict(load), stream)
    expected = asdict(gemm_rate(engine, load, stream_bytes=stream))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("memory", [None, 12.5])
@pytest.mark.parametrize("tokens", [1, 3, 512])
def test_a_model_takes_what_python_says(script, tokens, memory):
    engine = preset("engine")
    shapes = model_shapes(SHIPPED_MODEL)
    request = RateRequest(engine=engine, tokens=(tokens,), fp4=0.7, clock=400.0, memory=memory)
    (row,) = rate_model(shapes, request)["rows"]
    sizes = [[shape.outputs, shape.inputs, shape.count] for shape in shapes]
    for kind, fp4 in (("fgmp", 0.7), ("fp8", 0.0)):
        found = script("rateModel", asdict(engine), sizes, tokens, fp4, 400.0, memory)
        for name, value in row[kind].items():
            assert found[name] == pytest.approx(value, rel=1e-12), (kind, name)


def test_models_have_the_sizes_of_their_config(script):
    found = {(s.outputs, s.inputs, s.count) for s in model_shapes(SHIPPED_MODEL)}
    assert {tuple(shape) for shape in PAGE.MODELS["the shipped Llama"]} == found
    # 7B: all but the embeddings of 6.74 billion, as arXiv 2307.09288's model has them.
    assert (
        sum(n * k * count for n, k, count in PAGE.MODELS["Llama 2 7B"]) == 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096
    )
    for shapes in PAGE.MODELS.values():
        rate_model([Shape(*shape) for shape in shapes], RateRequest(engine=EngineConfig(k_max=16384)))


@pytest.mark.parametrize(
    ("fp4", "relative"), [(0.0, 1.0), (0.25, 0.95), (0.5, 0.9), (0.6, 0.85), (0.7, 0.8), (1.0, None)]
)
def test_energy_of_a_pair_is_what_was_measured_and_lines_between(script, fp4, relative):
    prices = Prices()
    expected = prices.table()[0, 0] if relative is None else relative * prices.fp8_only
    assert script("pairEnergy", fp4) == pytest.approx(expected)


def memory_bits(verilog, top):
    """Bits of all memory wrappers below `top`, by the instance's path."""
    modules = {m[1]: m[0] for m in re.finditer(r"^module (\w+).*?^endmodule", verilog, re.MULTILINE | re.DOTALL)}

    def below(name, path):
        for kind, _, parameters, instance in re.findall(
            r"^\s+(\w+) (#\s*\((.*?)\)\s*)?(\\?\S+) \(\n", modules.get(name, ""), re.MULTILINE | re.DOTALL
        ):
            if kind == "fgmp_ram_1r1w":
                sizes = {a: int(b) for a, b in re.findall(r"\.(\w+)\((?:\d+'d)?(\d+)\s*\)", parameters)}
                yield f"{path}/{instance}", sizes["WIDTH"] * sizes["DEPTH"]
            else:
                yield from below(kind, f"{path}/{instance}")

    return dict(below(top, ""))


@pytest.mark.long
@pytest.mark.parametrize(
    "engine",
    [
        EngineConfig(),
        EngineConfig(lanes=32, rows=128, slots=4, weight_streams=2, accumulators="memory", k_max=11008),
        EngineConfig(lanes=8, rows=32, packed_output=False, raw_input="none", k_max=1024, accumulators="memory"),
    ],
)
def test_buffers_are_those_of_the_verilog(script, engine):
    design = build(engine, "e")
    found = memory_bits(design.verilog, "e")
    parts = {"activations": "activation_path", "weights": "weight_path", "results": "/drain", "packer": "/packer",
             "sums": "/stored_sums"}  # fmt: skip
    bits = script("bufferBits", {**asdict(engine)})
    for name, part in parts.items():
        expected = sum(size for path, size in found.items() if part in path and "site_memory" not in path)
        if name == "sums" and engine.accumulators == "banked":
            expected = bits["results"]  # registers, as many as in the buffer of results
        assert bits[name] == expected, name

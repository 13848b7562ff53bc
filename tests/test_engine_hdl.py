"""The engine's configurations, registers, Verilog and what yosys makes of it."""

import json
import re
import subprocess

import pytest

from fgmp.errors import InputError
from fgmp.hdl.config import EngineConfig
from fgmp.hdl.design import build, write_design
from fgmp.hdl.engine.axi_lite import ADDRESS_BITS
from fgmp.hdl.engine.registers import INPUT_SITE, OUTPUT_SITE, REGISTERS, SITE_STRIDE, c_header, markdown, register
from fgmp.synth.fpga.block_rams import block_rams_of

from .conftest import ROOT, build_preset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lanes": 12}, "engine lanes: 12, expected 4, 8, 16, 32 or 64"),
        ({"rows": 48}, "engine rows: 48, expected 8, 16, 32, 64 or 128"),
        ({"slots": 3}, "engine slots: 3, expected 2, 4, 8, 16 or 32"),
        ({"k_max": 100}, "engine k_max: 100, expected a multiple of 16 from 16 to 42784"),
        ({"k_max": 42800}, "engine k_max: 42800, expected"),
        ({"n_max": 0}, "engine n_max: 0, expected a multiple of 16 from 16 to 65536"),
        ({"pipeline": 5}, "engine pipeline: 5, expected 0 to 4"),
        ({"selector_pipeline": 9}, "engine selector_pipeline: 9, expected 0 to 8"),
        ({"raw_input": "float16"}, "engine raw_input: 'float16', expected none, float32 or bfloat16"),
        ({"packed_output": 1}, "engine packed_output: 1, expected True or False"),
        ({"lanes": 8}, "engine packed_output: True, expected False with 8 lanes"),
        (
            {"raw_input": "none", "packed_output": False, "four_over_six": True},
            "engine four_over_six: True, expected False without a selector",
        ),
        (
            {"raw_input": "none", "packed_output": False, "channel_codes": True},
            "engine channel_codes: True, expected False without a selector",
        ),
    ],
)
def test_wrong_parameters(values, message):
    with pytest.raises(InputError) as caught:
        EngineConfig(**values)
    assert str(caught.value).startswith(message)


def test_an_engine_takes_no_planted_faults():
    with pytest.raises(InputError, match="faults: asked for"):
        build(EngineConfig(), "engine", faults=True)


def test_registers_do_not_overlap():
    assert len({r.offset for r in REGISTERS}) == len(REGISTERS) == len({r.name for r in REGISTERS})
    for item in REGISTERS:
        assert item.offset % 4 == 0
        bits = [b for f in item.fields for b in range(f.low, f.low + f.bits)]
        assert len(set(bits)) == len(bits)
        assert max(bits) < 32
        assert [f.low for f in item.fields] == sorted(f.low for f in item.fields)


def test_c_header_compiles_and_says_what_the_registers_are(tmp_path):
    (tmp_path / "fgmp.h").write_text(c_header())
    lines = ['#include <stdio.h>\n#include "fgmp.h"\nint main(void) {']
    wanted = []
    for item in REGISTERS:
        lines.append(f'printf("%u\\n", FGMP_{item.name});')
        wanted.append(item.offset)
        for field in item.fields:
            name = f"FGMP_{item.name}_{field.name.upper()}"
            lines.append(f'printf("%u\\n%u\\n", {name}_SHIFT, {name}_MASK);')
            wanted += [field.low, (1 << field.bits) - 1 << field.low]
    (tmp_path / "main.c").write_text("\n".join([*lines, "return 0; }\n"]))
    subprocess.run(["cc", "-Wall", "-Werror", "main.c", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert [int(line) for line in done.stdout.split()] == wanted


def test_site_memories_hold_every_channel():
    """The longest K and the largest packed N have their entries inside their windows."""
    for values, base, after in ((42_784, INPUT_SITE, OUTPUT_SITE), (65_536, OUTPUT_SITE, 1 << ADDRESS_BITS)):
        assert base + values // 16 * SITE_STRIDE <= after


def test_docs_hold_the_register_map():
    assert markdown() in (ROOT / "docs" / "registers.md").read_text()


def test_files_of_an_engine(tmp_path):
    design = build_preset("engine-4")
    paths = {p.name for p in write_design(design, tmp_path)}
    assert paths == {
        "engine_4.v", "engine_4.json", "engine_4.md", "engine_4_registers.h", "engine_4.core", "fgmp_ram_1r1w.v",
        "fgmp_ram_1r1w.core",
    }  # fmt: skip
    data = json.loads((tmp_path / "engine_4.json").read_text())
    assert data["clock"] == "aclk"
    assert data["derived"]["registers"][0]["name"] == "ID"
    top = design.verilog[: design.verilog.index("endmodule")]
    declared = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+),?$", top, re.MULTILINE)
    assert {p: (d, int(h or 0) + 1) for d, h, p in declared} == {
        p["name"]: (p["direction"], p["width"]) for p in data["ports"]
    }
    assert register("M").offset == 0x30
    core = (tmp_path / "engine_4.core").read_text()
    assert core.startswith("CAPI=2:\n")
    assert "engine_4.v" in core


def test_bus_names_are_those_of_axi():
    """Vivado and LiteX recognize buses by these names."""
    names = {p.name for p in build_preset("engine-4").ports}
    assert names == {"aclk", "aresetn", "irq"} | {
        f"{bus}_{signal}"
        for bus, signals in {
            "s_axi": "awaddr awvalid awready wdata wstrb wvalid wready bresp bvalid bready "
            "araddr arvalid arready rdata rresp rvalid rready",
            "s_axis_weights": "tdata tkeep tlast tvalid tready",
            "s_axis_activations": "tdata tkeep tlast tvalid tready",
            "m_axis_results": "tdata tkeep tlast tvalid tready",
        }.items()
        for signal in signals.split()
    }


def test_buffers_become_block_memories():
    memories = block_rams_of(build_preset("engine-4"))
    # Weights 2 * 4 * 16 and activations 2 * 8 * 16 blocks; the accumulators and results are too shallow for any.
    assert memories.block_rams >= 6
    assert memories.flip_flop_memories == 0

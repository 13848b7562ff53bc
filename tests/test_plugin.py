"""The pytest plugin, in the tests of a project that wraps a lane and an engine."""

import pytest

from fgmp.hdl.engine.registers import IDENTIFICATION

from .conftest import build_preset

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.long

PROJECT = """
from pathlib import Path
import pytest
from fgmp.errors import InputError

def test_ours(fgmp_unit):
    unit = fgmp_unit("selector-flat", Path("ours.v"), top="ours")
    assert unit.check("every tensor exponent", "random heavy-tailed, stalls", count=40) > 500

def test_broken(fgmp_unit):
    fgmp_unit("selector-flat", Path("broken.v"), top="ours").check("E4M3 ties")

def test_engine(fgmp_engine):
    engine = fgmp_engine("engine-4")
    assert engine.driver().read("ID") == IDENTIFICATION
    assert engine.check("byte strobes", "GEMMs back to back") > 100
    with pytest.raises(InputError, match="scenario: 'x', expected one of"):
        engine.check("x")

def test_bad_input(fgmp_unit, fgmp_engine):
    for make, arguments, message in (
        (fgmp_unit, ["lane", Path("ours.v")], "expected files and the name of their top module"),
        (fgmp_unit, ["engine-4"], "preset engine-4: expected a lane or a selector"),
        (fgmp_engine, ["lane"], "preset lane: expected an engine"),
        (fgmp_unit, ["no-such"], "preset"),
    ):
        with pytest.raises(InputError, match=message):
            make(*arguments)
    with pytest.raises(InputError, match="Verilog: nowhere.v is not a file"):
        fgmp_unit("lane", Path("nowhere.v"), top="ours")
"""


def wrapper(design, change=lambda wires: wires):
    """The unit in a module called `ours`; `change` edits its assignments."""
    ports = ", ".join(f"{p.direction} [{p.width - 1}:0] {p.name}" for p in design.ports)
    outputs = [p for p in design.ports if p.direction == "output"]
    wires = "".join(f"  wire [{p.width - 1}:0] w_{p.name};\n  assign {p.name} = w_{p.name};\n" for p in outputs)
    inner = ", ".join(f".{p.name}({'w_' * (p in outputs)}{p.name})" for p in design.ports)
    return f"{design.verilog}\nmodule ours({ports});\n{change(wires)}  {design.name} inner({inner});\nendmodule\n"


@pytest.mark.filterwarnings("default")
def test_a_project_that_wraps_units(pytester):
    design = build_preset("selector-flat")
    pytester.makeconftest('pytest_plugins = ["fgmp.sim.pytest_plugin"]')
    (pytester.path / "ours.v").write_text(wrapper(design))
    broken = wrapper(design, lambda wires: wires.replace("= w_o_payload", "= w_o_payload ^ 1"))
    (pytester.path / "broken.v").write_text(broken)
    pytester.makepyfile(PROJECT.replace("IDENTIFICATION", str(IDENTIFICATION)))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    result.assert_outcomes(passed=3, failed=1)
    said = result.stdout.str()
    assert "comparisons differ" in said
    assert "element 0" in said
    assert "Traceback" not in said

"""What is proven of the hardware: each proof closes, and a planted fault makes it fail."""

from contextlib import suppress

import pytest

from fgmp.errors import InputError
from fgmp.formal import solver
from fgmp.formal.equivalence import change_is_equivalent
from fgmp.formal.solver import Solver
from fgmp.hdl.yosys import run_yosys
from fgmp.sim.mutants import mutated

from .conftest import build_preset

FLAT = "proc; flatten; opt_expr; opt_clean"


def test_the_solver_answers():
    with Solver(5) as asked:
        asked.tell("(declare-fun x () (_ BitVec 8))")
        assert asked.ask("(= (bvmul x x) #x31)") is True
        assert asked.ask("(= (bvmul x x) #x03)") is False
        asked.tell("(assert (bvult x #x07))")
        assert asked.ask("(= (bvmul x x) #x31)") is False
        with pytest.raises(RuntimeError, match="yices: "):
            asked.ask("(= y #x31)")


def test_a_solver_that_is_not_there(monkeypatch):
    monkeypatch.setattr(solver.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"yices-smt2: not found.*fgmp\[formal\]"):
        Solver(5)


def yosys_says(design, change, folder):
    """The same question to yosys' own SAT solver, which is fast enough for units without registers."""
    (folder / "unit.v").write_text(design.verilog)
    name = design.name
    script = f"""
read_verilog unit.v; hierarchy -top {name}; {FLAT}; design -save whole
rename {name} gold; design -stash gold
design -load whole; {change}
rename {name} gate; design -stash gate
design -copy-from gold -as gold gold; design -copy-from gate -as gate gate
miter -equiv -flatten gold gate both; hierarchy -top both
sat -verify -prove trigger 0 both
"""
    (folder / "ask.ys").write_text(script)
    with suppress(RuntimeError):
        run_yosys(folder, name, "-s", "ask.ys")
        return True
    return False


@pytest.mark.parametrize("name", ["decoder-e2m1", "decoder-e4m3"])
def test_two_solvers_agree_on_faults_of_decoders(name, tmp_path):
    design = build_preset(name)
    lines = ["", *(mutant.line for mutant in mutated(design, 8, 1)[1])]
    ours = [change_is_equivalent(design, FLAT, line, 20) for line in lines]
    assert ours == [yosys_says(design, line, tmp_path) for line in lines]
    assert ours[0]
    assert ours.count(False) >= 4


def test_a_change_that_changes_nothing_is_proven():
    """Narrower operators and shared ones: other cells, the same values."""
    design = build_preset("selector-flat")
    assert change_is_equivalent(design, FLAT, "wreduce; peepopt; opt_share", 60)
    assert not change_is_equivalent(design, FLAT, "no_such_command", 60)

"""What is proven of the hardware: each proof closes, and a planted fault makes it fail."""

import json
import time
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import pytest

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.formal import claims_of_selector, solver
from fgmp.formal import prove as prove_module
from fgmp.formal.equivalence import Equivalence, _Sweep
from fgmp.formal.netlist import FLATTEN, Definition
from fgmp.formal.page import markdown
from fgmp.formal.properties import NOT_PROVEN, PROPERTIES, unit_of
from fgmp.formal.prove import answers, properties_named, prove
from fgmp.formal.solver import Solver
from fgmp.formal.terms import boundary_codes, count, extended, number, table
from fgmp.formats import E2M1, E4M3, FLOAT32
from fgmp.hdl.yosys import run_yosys
from fgmp.report.build import section_of
from fgmp.sim.mutants.plant import in_netlist

from .conftest import ROOT, build_preset


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
read_verilog unit.v; hierarchy -top {name}; {FLATTEN}; design -save whole
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
    lines = ["", *(mutant.line for mutant in in_netlist(design, 8, 1).mutants)]
    with Equivalence(design) as unit:
        ours = [unit.holds(line, 20) for line in lines]
    assert ours == [yosys_says(design, line, tmp_path) for line in lines]
    assert ours[0]
    assert ours.count(False) >= 4


def test_a_change_that_changes_nothing_is_proven():
    """Narrower operators and shared ones: other cells, the same values."""
    with Equivalence(build_preset("selector-flat")) as unit:
        assert unit.holds("wreduce; peepopt; opt_share", 60)
        assert not unit.holds("no_such_command", 60)


REGISTERED = """
module unit(input clk, input go, input [3:0] a, output reg [3:0] kept, output [3:0] seen, output [7:0] read);
  reg [3:0] before, {never};
  always @(posedge clk) begin
    before <= a;
    if (go) kept <= before + {added};
  end
  assign seen = before {operator} kept;
  fgmp_ram_1r1w ram(.clk(clk), .write_enable({enable}), .write_data({{a, before}}), .read_data(read));
endmodule
module fgmp_ram_1r1w(input clk, input write_enable, input [7:0] write_data, output reg [7:0] read_data);
  reg [7:0] word;
  always @(posedge clk) if (write_enable) word <= write_data;
  always @(posedge clk) read_data <= word;
endmodule
"""


@pytest.mark.parametrize(
    ("same", "change"),
    [
        (True, ""),
        (True, "wreduce; opt_expr; opt_share"),
        (False, "setparam -set CLK_POLARITY 0 t:$dff"),
        (False, "select -set r w:before %ci1 t:$dff %i; delete @r"),
        (False, "connect -set kept 4'd0"),
        (False, "connect -port ram write_enable 1'b1"),
        (False, "connect -port ram write_data 8'd0"),
        (False, "connect -set seen 4'd0"),
        (False, "no_such_command"),
    ],
)
def test_what_registers_and_memories_take_is_compared(same, change):
    verilog = REGISTERED.format(never="unread", added=3, operator="^", enable="go & a[0]")
    design = replace(build_preset("decoder-e2m1"), name="unit", verilog=verilog)
    with Equivalence(design) as unit:
        assert unit.holds(change, 20) == same


def test_outputs_that_a_mutation_names_with_colons_are_symbols():
    """yosys calls the wire that it adds by the place in its own source."""
    odd = "$flatten/gate.$auto$mutate.cc:719:mutate_cnot$12"
    both = [
        Definition("0", "Bool", None, "a"),
        Definition(odd, "Bool", "(not (|both#0| state))", odd),
        Definition("1", "Bool", "(and (|both#0| state) (not (|both#0| state)))", "b"),
        Definition("trigger", "Bool", "(|both#1| state)", "trigger"),
    ]
    assert _Sweep(time.monotonic() + 5).prove(both)
    both[2] = Definition("1", "Bool", "(or (|both#0| state) (not (|both#0| state)))", "b")
    assert not _Sweep(time.monotonic() + 5).prove(both)


# Those that take half a minute or more are for `make prove`.
LONG = {"product", "score", "block-scale-bfloat16", "block-scale-float32", "fp4-codes-float32", "fp8-codes-float32"}


@pytest.mark.parametrize("name", [item.name for item in PROPERTIES if item.name not in LONG])
def test_a_property_is_proven_and_sees_its_fault(name):
    outcome = prove(name)
    assert outcome.failed == ()
    assert outcome.open == ()
    assert outcome.fault
    assert outcome.proven


@pytest.mark.parametrize("name", ["block-scale-bfloat16", "score"])
def test_a_long_property_sees_its_fault(name):
    (item,) = properties_named([name])
    faults = (case for case, answer in answers(item, 60, faulty=True) if answer)
    assert next(faults)


def test_boundaries_are_those_of_rounding():
    """Against rounding by fractions: just below, at and just above every boundary."""
    for target, scale in ((E4M3, Fraction(1)), (E4M3, Fraction(6)), (E2M1, Fraction(9, 8)), (E2M1, Fraction(72))):
        values = [Fraction(value) * scale for value in target.magnitudes]
        for index, (code, tie_goes_up) in enumerate(boundary_codes(target, scale)):
            here = Fraction(FLOAT32.magnitude(code))
            assert here - values[index] == values[index + 1] - here
            assert tie_goes_up == (index % 2 == 1)


def test_fields_of_a_result_are_where_claims_look_for_them():
    fields = build_preset("selector").port("o_payload").fields
    places = claims_of_selector._CODES, claims_of_selector._SCALE, claims_of_selector._FP8, claims_of_selector._NAN
    assert [fields[name][0] for name in ("codes", "scale", "fp8", "nan")] == list(places)
    assert fields["score"] == (claims_of_selector._SCORE, claims_of_selector._SCORE_BITS)


def test_tables_and_counts():
    with Solver(5) as asked:
        asked.tell("(declare-fun i () (_ BitVec 3))")
        squares = table("i", [n * n for n in range(8)], 6)
        wide = extended("i", 3)
        assert asked.ask(f"(distinct {squares} (bvmul {wide} {wide}))") is False
        passed = count([f"(bvuge i {number(n, 3)})" for n in range(1, 8)], 3)
        assert asked.ask(f"(distinct {passed} i)") is False
        fewer = count([f"(bvuge i {number(n, 3)})" for n in range(2, 8)], 3)
        assert asked.ask(f"(distinct {fewer} i)") is True


def test_the_page_is_that_of_the_properties():
    assert (ROOT / "docs" / "proofs.md").read_text() == markdown()
    assert len({item.name for item in PROPERTIES}) == len(PROPERTIES)


def test_the_command(capsys, monkeypatch):
    assert main(["prove", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(item.name in said for item in PROPERTIES)
    assert all(what in said for what, _ in NOT_PROVEN)
    assert main(["prove", "decode-e2m1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proven"] == 1
    assert section_of(found["schema"], found, "").good
    assert found["properties"][0]["fault"] == "magnitude"
    assert main(["prove", "decode-e2m1"]) == 0
    assert "1 of 1 proven" in capsys.readouterr().out
    assert main(["prove", "no-such"]) == 2
    assert "property: 'no-such', expected one of decode-e4m3, " in capsys.readouterr().err
    assert main(["prove", "--workers", "0"]) == 2
    assert "workers: 0, expected at least 1" in capsys.readouterr().err


def test_a_false_claim_is_said(capsys, monkeypatch):
    (item,) = properties_named(["decode-e2m1"])
    monkeypatch.setattr(prove_module, "unit_of", lambda item, faulty: unit_of(item, faulty=not faulty))
    outcome = prove(item.name)
    assert outcome.failed == ("magnitude",)
    assert outcome.fault is None
    assert not outcome.proven

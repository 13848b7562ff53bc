"""Claims of handshakes, from any state that registers can hold: AXI4-Stream (IHI 0051), AXI4-Lite (IHI 0022), ours."""

from collections.abc import Iterable, Iterator, Mapping

from .netlist import Netlist
from .solver import Solver
from .terms import Case, extended

__all__ = ["answers_after_questions", "axi_holds_while_waiting", "axi_valid_before_ready", "holds_while_waiting",
           "moves_one_for_one", "valid_before_ready"]  # fmt: skip

_AXI = (
    ("m_axis_results_t", ("data", "keep", "last")),
    ("s_axi_b", ("resp",)),
    ("s_axi_r", ("data", "resp")),
)
"""What the engine sends: a channel's prefix, and what it carries beside valid and ready."""


def holds_while_waiting(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Once valid, a result stays, unchanged, until it is taken, whatever the inputs do, but for reset."""
    now, then = unit.run(solver, "c", [{**fixed, "rst": "#b0"}, dict(fixed)])
    waits = f"(and (= {now['o_valid']} #b1) (= {now['o_ready']} #b0))"
    yield "valid stays", f"(and {waits} (distinct {then['o_valid']} #b1))"
    yield "payload stays", f"(and {waits} (distinct {now['o_payload']} {then['o_payload']}))"


def valid_before_ready(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Valid and payload are what they are whatever the inputs are in the same cycle, ready among them."""
    yield from _registered(solver, unit, fixed, ("o_valid", "o_payload"))


def _registered(solver: Solver, unit: Netlist, fixed: Mapping[str, str], outputs: Iterable[str]) -> Iterator[Case]:
    """The same registers, under any two choices of inputs, give the same `outputs`."""
    registers = {f"{name}.q": f"|{name}|" for name in unit.registers}
    for name in unit.registers:
        solver.tell(f"(declare-fun |{name}| () (_ BitVec {unit.inputs[name + '.q']}))")
    one, other = (unit.cycle(solver, tag, {**registers, **fixed}) for tag in ("one", "other"))
    for name in outputs:
        yield name, f"(distinct {one[name]} {other[name]})"


def moves_one_for_one(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """What is in the unit grows by what it takes and shrinks by what it gives: nothing is lost, nothing is doubled.

    What is in it are the stages that say so. After reset there is nothing.
    """
    now, then, after = unit.run(solver, "c", [dict(fixed), dict(fixed), dict(fixed)])
    stages = [name for name in unit.registers if name.split(".")[-1].startswith("valid")]
    assert stages, "no stage of the unit says that it is valid"

    def held(cycle: Mapping[str, str], end: str) -> str:
        terms = " ".join(extended(cycle[f"{name}.{end}"], 7) for name in stages)
        return f"(bvadd {terms})" if len(stages) > 1 else terms

    def moved(side: str) -> str:
        return extended(f"(bvand {then[f'{side}_valid']} {then[f'{side}_ready']})", 7)

    # From a state that some inputs led to: aliases of a register are then the same.
    running = f"(and (= {then['rst']} #b0) (= {now['rst']} #b0))"
    balance = f"(bvadd {held(then, 'q')} (bvsub {moved('i')} {moved('o')}))"
    yield "balance", f"(and {running} (distinct {held(then, 'd')} {balance}))"
    yield "empty after reset", f"(and (= {then['rst']} #b1) (distinct {held(then, 'd')} #x00))"
    yield "no result after reset", f"(and (= {then['rst']} #b1) (= {after['o_valid']} #b1))"


def axi_holds_while_waiting(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """What the engine offers on a channel stays, unchanged, until it is taken, but for reset."""
    # From a state that some inputs led to: aliases of a register are then the same.
    _, now, then = unit.run(solver, "c", [dict(fixed), {**fixed, "aresetn": "#b1"}, dict(fixed)])
    for channel, payload in _AXI:
        valid, ready = f"{channel}valid", f"{channel}ready"
        waits = f"(and (= {now[valid]} #b1) (= {now[ready]} #b0))"
        yield valid, f"(and {waits} (distinct {then[valid]} #b1))"
        for name in (channel + part for part in payload):
            yield name, f"(and {waits} (distinct {now[name]} {then[name]}))"


def axi_valid_before_ready(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Every output of the engine is what it is whatever the inputs are in the same cycle."""
    yield from _registered(solver, unit, fixed, (name for name in unit.outputs if "." not in name))


def answers_after_questions(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Each register access gets one answer: those taken less those answered are what the interface holds.

    A write has two questions, its address and its data; both are gone when it is answered.
    """
    holds = {"aw": ("address_there", "axi_bvalid"), "w": ("data_there", "axi_bvalid"), "ar": ("axi_rvalid",)}
    now = unit.cycle(solver, "c", {**fixed, "aresetn": "#b1"})
    first = unit.cycle(solver, "reset", {**fixed, "aresetn": "#b0"})
    for question, registers in holds.items():
        names = [f"core.registers.{name}" for name in registers]
        answer = "r" if question == "ar" else "b"

        def held(cycle: Mapping[str, str], end: str, names: list[str] = names) -> str:
            terms = [extended(cycle[f"{name}.{end}"], 2) for name in names]
            return f"(bvadd {' '.join(terms)})" if len(terms) > 1 else terms[0]

        def moved(channel: str) -> str:
            return extended(f"(bvand {now[f's_axi_{channel}valid']} {now[f's_axi_{channel}ready']})", 2)

        balance = f"(bvadd {held(now, 'q')} (bvsub {moved(question)} {moved(answer)}))"
        # The port is the register: from a state that inputs led to, both have one value.
        alias = f"(= {now[f's_axi_{answer}valid']} {now[f'core.registers.axi_{answer}valid.q']})"
        yield question, f"(and {alias} (distinct {held(now, 'd')} {balance}))"
        yield f"{question} in reset", f"(distinct {held(first, 'd')} #b000)"

"""The verification plan: what the documents promise of the hardware, and what holds it. docs/verification.md shows it.

A holder is a test ("test_engine.py::test_name"), a scenario of the engine's bench ("scenario: name"), a campaign of a
lane or a selector ("campaign: name"), or a proof ("proof: name"). A test sees that each exists, and that no preset,
parameter, register field, event or counter is without one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from ..hdl.config import PRESETS, EngineConfig, LaneConfig, SelectorConfig
from ..hdl.engine.registers import COUNTERS, EVENTS, REGISTERS

__all__ = ["Row", "markdown", "plan"]

_VALUES = "test_every_value.py::test_computes_what_golden_does"
_PART = "test_every_value.py::test_a_part_computes_what_golden_does"
_SIZES = "scenario: corners of the tiles"
_LIMITS = "scenario: limits"
_REGISTERS = "scenario: registers"
_IN_FLIGHT = "scenario: register accesses in flight"
_EVENTS = "scenario: events and interrupts"
_STALLS = "scenario: stalls are charged to who stalls"
_LATE = "scenario: streams that come late"
_RATE = "scenario: the rate that is promised"
_KINDS = "scenario: every kind of input and output"


@dataclass(frozen=True)
class Row:
    """A subject, such as "event nan", what is promised of it, and what holds that."""

    kind: str
    subject: str
    promise: str
    held_by: tuple[str, ...]


_PRESETS: dict[str, tuple[str, ...]] = {
    "lane": ("test_sim.py::test_lane_regression",),
    "lane-1k": ("campaign: random rows", _VALUES),
    "lane-11k": ("test_sim.py::test_other_lanes",),
    "lane-flat": ("test_sim.py::test_other_lanes",),
    "lane-merged": ("test_sim.py::test_pipeline_depths_without_a_preset", _VALUES),
    "lane-fp8": ("test_sim.py::test_pipeline_depths_without_a_preset", _VALUES),
    "dot-fp8": (_PART, "test_synth.py::test_every_output_of_a_unit_is_compared"),
    "dot-mixed": (_PART,),
    "selector": ("test_sim.py::test_selector_regression",),
    "selector-bf16": ("test_sim.py::test_other_selectors",),
    "selector-channel": ("test_sim.py::test_other_selectors",),
    "selector-four-over-six": ("test_sim.py::test_other_selectors",),
    "selector-flat": ("test_sim.py::test_other_selectors",),
    "decoder-e4m3": (_PART,),
    "decoder-e2m1": (_PART,),
    "engine": ("test_engine.py::test_engine",),
    "engine-channel": ("test_engine.py::test_other_parameters", _VALUES),
    "engine-8": ("test_every_value.py::test_the_engine_for_fpgas",),
    "engine-4": ("test_engine.py::test_small_engine",),
    "engine-lane": (_PART,),
    "engine-lane-merged": (_PART,),
    "engine-lane-fp8": (_PART,),
    "accumulators": (_PART, "test_order.py::test_accumulators_hold_what_was_written"),
    "activation-decoder": (_PART,),
    "row-order": (_PART, "test_order.py::test_rows_come_by_precision"),
}

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "k_max": (_VALUES, _LIMITS, "campaign: ties near full scale"),
    "n_max": (_VALUES, _LIMITS),
    "row_order": (_VALUES, "test_engine.py::test_order_of_rows_changes_nothing_but_time"),
    "weight_streams": (_VALUES, "test_rate.py::test_two_streams_of_weights"),
}
"""What holds a parameter beside, or in place of, the units in which each value occurs."""

_FIELDS: dict[str, tuple[str, ...]] = {
    "ID": (_REGISTERS,),
    "VERSION": (_REGISTERS,),
    "SHAPE": (_REGISTERS, "test_engine.py::test_driver_refuses_what_the_engine_cannot_do"),
    "FEATURES": (_REGISTERS, "test_engine.py::test_driver_refuses_what_the_engine_cannot_do"),
    "LIMITS": (_REGISTERS,),
    "CONTROL.start": (_KINDS, "scenario: GEMMs back to back"),
    "CONTROL.abort": ("scenario: reset and ABORT in the middle", "scenario: ABORT of two GEMMs"),
    "STATUS.busy": (_REGISTERS, "scenario: ABORT of two GEMMs"),
    "STATUS.waiting": ("scenario: GEMMs back to back", "scenario: ABORT of two GEMMs"),
    "STATUS.irq": (_EVENTS, "test_engine.py::test_interrupt_and_events"),
    "STATUS.closing": ("scenario: reset and ABORT in the middle",),
    "EVENTS": (_EVENTS, "scenario: events that are cleared as they come"),
    "INTERRUPT_ENABLE": (_EVENTS,),
    "M": (_SIZES, _LIMITS, _REGISTERS),
    "N": (_SIZES, _LIMITS, _REGISTERS),
    "K": (_SIZES, _LIMITS, _REGISTERS),
    "FORMAT.output": (_KINDS, _REGISTERS),
    "FORMAT.raw_input": (_KINDS, _REGISTERS),
    "FORMAT.relu": (_KINDS,),
    "FORMAT.exponent": (_LIMITS, _REGISTERS),
    "INPUT_SELECTOR": (_KINDS, _LIMITS, _REGISTERS),
    "OUTPUT_SELECTOR": (_KINDS, _LIMITS, _REGISTERS),
    "JOBS": ("scenario: packets of GEMMs that have ended", "scenario: ABORT of two GEMMs"),
    "RESULT_PACKETS": ("scenario: reset and ABORT in the middle",),
}
"""By register, or register and field."""

_EVENT_HOLDERS: dict[str, tuple[str, ...]] = {
    "done": (_EVENTS, "scenario: events that are cleared as they come"),
    "nan": (_EVENTS, "scenario: NaN and illegal scales"),
    "format_error": (_EVENTS, "scenario: NaN and illegal scales"),
    "overflow": ("campaign: directed extremes", "campaign: ties near full scale"),
    "weights_short": (_EVENTS, "scenario: wrong stream lengths"),
    "weights_long": (_EVENTS, "scenario: wrong stream lengths", "scenario: TLAST on an empty beat"),
    "activations_short": (_EVENTS, "scenario: wrong stream lengths"),
    "activations_long": (_EVENTS, "scenario: wrong stream lengths", "scenario: TLAST on an empty beat"),
    "start_rejected": (_EVENTS, "scenario: GEMMs back to back"),
    "config_error": (_EVENTS, _REGISTERS),
}

_COUNTER_HOLDERS: dict[str, tuple[str, ...]] = {
    "cycles": (_RATE, "test_rate.py::test_the_model_of_the_rate_is_right_within_a_hundredth"),
    "products": (_SIZES,),
    "span": (_LATE, "test_rate.py::test_the_model_of_the_rate_is_right_within_a_hundredth"),
    "stall_weights": (_STALLS, _LATE),
    "stall_activations": (_STALLS, _LATE),
    "stall_results": (_STALLS,),
    "activation_fp8_reads": (_SIZES,),
    "weight_reads": (_SIZES,),
    "weight_fp8_reads": (_SIZES,),
    "weight_beats": (_SIZES,),
    "activation_beats": (_SIZES,),
    "result_beats": (_SIZES,),
    "stall_sums": (_RATE, "test_engine.py::test_order_of_rows_changes_nothing_but_time"),
}

_STATEMENTS = (
    ("streams", "what is not valid is not read; a beat on offer stays",
     ("scenario: random stalls on all streams", "test_sim.py::test_inputs_that_change_while_they_are_not_valid",
      "proof: axi-holds", "proof: lane-holds", "proof: selector-holds")),
    ("streams", "no output of a stream depends on an input of the same cycle, but for a lane's and a selector's ready",
     ("proof: axi-registered", "proof: lane-valid", "proof: selector-valid")),
    ("streams", "nothing is lost or doubled", ("proof: selector-balance", "scenario: random stalls on all streams")),
    ("registers", "one answer a question, not before it, and it stays until it is heard",
     (_REGISTERS, "proof: axi-answers", "proof: axi-holds")),
    ("registers", "address and data in any order, each late", (_REGISTERS, _IN_FLIGHT)),
    ("registers", "accesses that do not wait for answers, answered in order", (_IN_FLIGHT, "proof: axi-answers")),
    ("flags", "nothing raises one that was not taken, whatever stays inside or stands at a register",
     ("campaign: idle", "campaign: every tensor exponent")),
    ("registers", "byte strobes choose what is written, in each of them", ("scenario: byte strobes",)),
    ("counters", "every cycle until the last block pair has one or is charged to one cause", (_SIZES, _KINDS, _RATE)),
    ("rate", "a GEMM whose streams never stall takes the cycles that `fgmp.hdl.gemm_rate` says", (_RATE,)),
    ("events", "one that comes as it is cleared stays", ("scenario: events that are cleared as they come",)),
    ("ABORT", "forgets the GEMM that runs and the one that waits; START may follow at once",
     ("scenario: ABORT of two GEMMs",)),
    ("ABORT", "what has left of a packet is its beginning, and is closed behind the beat on offer",
     ("scenario: reset and ABORT in the middle",)),
    ("reset", "one cycle, from any state",
     ("test_sim.py::test_reset_from_a_random_state", "test_engine.py::test_reset_from_a_random_state")),
    ("FP4 blocks", "the second half of their slot is not read", ("campaign: random rows", _VALUES)),
    ("NaN", "in any element of any block, on either side", ("campaign: NaN codes and recovery",
                                                            "scenario: NaN and illegal scales")),
    ("rounding", "ties to even, once, near the smallest and the largest sums",
     ("campaign: rounding ties and exponents", "campaign: ties near full scale", "proof: round-float32",
      "proof: round-bfloat16")),
    ("decoders", "the value of every code", ("proof: decode-e4m3", "proof: decode-e2m1", _PART)),
    ("selector", "scale, codes and decision for every block",
     ("proof: block-scale-float32", "proof: fp4-codes-float32", "proof: fp8-codes-float32", "proof: decision-float32")),
    ("block scales", "all legal pairs; every illegal code is flagged",
     ("campaign: block scales, all 105 x 105", "campaign: block scales, every illegal code")),
    ("elements", "every pair of codes in every position",
     ("campaign: element pairs FP8 x FP8", "campaign: element pairs FP4 x FP4", "proof: product")),
    ("paths", "only ready passes through a stream unit without a register",
     ("test_parameters.py::test_only_ready_passes_through_a_stream_unit",)),
    ("lint", "no warning, whatever the parameters", ("test_parameters.py::test_lints_clean",)),
)  # fmt: skip


def plan() -> Iterator[Row]:
    """All rows. Raises KeyError for a preset, event, counter or register field that nothing holds."""
    for name, (text, _) in PRESETS.items():
        yield Row("preset", name, text, _PRESETS[name])
    for unit, config in (("lane", LaneConfig()), ("selector", SelectorConfig()), ("engine", EngineConfig())):
        for field in fields(config):
            yield Row("parameter", f"{unit} {field.name}", "every value", _PARAMETERS.get(field.name, (_VALUES,)))
    for register in REGISTERS:
        for item in register.fields:
            if register.name.lower() not in dict(COUNTERS):
                name = f"{register.name}.{item.name}"
                yield Row("register", name, item.text, _FIELDS[name if name in _FIELDS else register.name])
    for name, text in EVENTS:
        yield Row("event", name, text, _EVENT_HOLDERS[name])
    for name, text in COUNTERS:
        yield Row("counter", name, text, _COUNTER_HOLDERS[name])
    for subject, promise, holders in _STATEMENTS:
        yield Row("statement", subject, promise, holders)


def markdown() -> str:
    """The plan as Markdown tables, one for each kind."""
    lines: list[str] = []
    kind = ""
    for row in plan():
        if row.kind != kind:
            kind = row.kind
            lines += ["", f"| {kind} | promise | held by |", "|---|---|---|"]
        holders = "; ".join(holder.replace("|", "\\|") for holder in row.held_by)
        lines.append(f"| `{row.subject}` | {row.promise} | {holders} |")
    return "\n".join(lines[1:]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")

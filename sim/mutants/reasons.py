"""Why survivors among the source's mutants are not gaps in the regression, where no proof says so.

Each is a change that differs in registers and not in results, for a reason that takes more than one cycle, or knowledge
of which values occur. They were looked at one by one, in `lane-1k`, `selector-four-over-six` and `engine-4`.
"""

from pathlib import Path

__all__ = ["reason"]

_ISOLATION = "isolation of operands that are not used: power, not results"
_ZERO = "the sign of a zero, which is added as minus zero"
_NAN = "no NaN comes here: scales are legal and elements were saturated"
_NO_WEIGHTS = "no weights are there while no GEMM runs"
_FETCHED = "the two fetches of a step are over before its rows are in order"
_UNUSED_STICKY = "what lies below a magnitude of 0, or beside one at its limit, decides no rounding"

_REASONS = {
    (
        "hdl/operands.py",
        '"positives": Cat(~sign & significand.any() for sign, significand in pairs),',
        "~sign & significand.any() -> left",
    ): _ZERO,
    (
        "hdl/operands.py",
        '"negatives": Cat(sign & significand.any() for sign, significand in pairs),',
        "sign & significand.any() -> left",
    ): _ZERO,
    (
        "hdl/dot.py",
        "sign = (one | three) & Mux(w.signs[i], a.narrow_positives[i], a.narrow_negatives[i])",
        "(one | three) & Mux(w.signs[i], a.narrow_positives[i], a.narrow_negatives[i]) -> right",
    ): _ZERO,
    (
        "hdl/dot.py",
        "sign = w.nonzeros[i] & Mux(w.signs[i], positives[i], negatives[i])",
        "w.nonzeros[i] & Mux(w.signs[i], positives[i], negatives[i]) -> right",
    ): _ZERO,
    ("hdl/dot.py", 'mixed=wire(m, "mixed", ~(a.fp8 & w.fp8) & ~fp4),', "~(a.fp8 & w.fp8) & ~fp4 -> left"): _ISOLATION,
    (
        "hdl/dot.py",
        "moving = used & ~(narrow & before & self.w_still)",
        "used & ~(narrow & before & self.w_still) -> |",
    ): _ISOLATION,
    (
        "hdl/dot.py",
        "moving = used & ~(narrow & before & self.w_still)",
        "used & ~(narrow & before & self.w_still) -> right",
    ): _ISOLATION,
    ("hdl/dot.py", "plain = ~(s.fp4 | s.mixed)", "s.fp4 | s.mixed -> &"): _ISOLATION,
    ("hdl/dot.py", "plain = ~(s.fp4 | s.mixed)", "s.fp4 | s.mixed -> left"): _ISOLATION,
    ("hdl/dot.py", "plain = ~(s.fp4 | s.mixed)", "s.fp4 | s.mixed -> right"): _ISOLATION,
    (
        "hdl/rows.py",
        'carry = wire(self._m, f"{self._name}_carry_on", part[-1] & enable)',
        "part[-1] & enable -> left",
    ): _ISOLATION,
    (
        "hdl/pipeline.py",
        "with self._m.If(reduce(and_, conditions)):",
        "reduce(and_, conditions) -> without the last",
    ): _ISOLATION,
    (
        "hdl/rounding.py",
        'sticky = self._faults.pick("sticky bit dropped", normalized[: -fmt.mantissa_bits - 2].any(), 0)',
        "normalized[:-fmt.mantissa_bits - 2].any() -> without the lowest",
    ): "the lowest bit is set only by a sum whose top bit is: the one largest negative sum, whose lowest is not",
    (
        "hdl/lane.py",
        "taken = valid & advance",
        "valid & advance -> left",
    ): "a flag that rises while its cause waits, not when it is taken",
    (
        "hdl/lane.py",
        "(self.format_error, (taken & dot.illegal) | (emit & advance & rounder.exponent_error)),",
        "emit & advance -> left",
    ): "a flag that rises while its cause waits, not when it is taken",
    (
        "hdl/fixed.py",
        "normal = biased.any()",
        "biased.any() -> without the lowest",
    ): "an exponent so small that the magnitude is 0",
    (
        "hdl/fixed.py",
        'saturated = wire(m, f"{name}_saturated", (distance < 0) | infinite | (~far & (kept >= _LIMIT)))',
        "kept >= _LIMIT -> >",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        'saturated = wire(m, f"{name}_saturated", (distance < 0) | infinite | (~far & (kept >= _LIMIT)))',
        "kept >= _LIMIT -> >= 917503",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        'saturated = wire(m, f"{name}_saturated", (distance < 0) | infinite | (~far & (kept >= _LIMIT)))',
        "kept >= _LIMIT -> >= 917505",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "~zero & ~saturated -> |",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "~zero & ~saturated -> left",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "significand.any() -> all",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "significand.any() -> without the lowest",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "significand.any() -> without the highest",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "Mux(far, significand.any(), below) -> second",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "sticky = ~zero & ~saturated & Mux(far, significand.any(), below)",
        "~zero & ~saturated & Mux(far, significand.any(), below) -> right",
    ): _UNUSED_STICKY,
    (
        "hdl/fixed.py",
        "return self.magnitude >= boundary",
        "self.magnitude >= boundary -> >= 933887",
    ): "an odd number of units, which a magnitude that is normalized to beyond 448 is not",
    (
        "hdl/engine/core.py",
        "events.activations_short.eq(self._activations.short & control.status_busy),",
        "self._activations.short & control.status_busy -> left",
    ): "a reader asks for bytes only while a GEMM runs",
    (
        "hdl/engine/control.py",
        "begin.eq(waiting & ~busy & ~self.abort & ~self.behind & ~self.flushing),",
        "waiting & ~busy & ~self.abort -> left",
    ): "ABORT undoes it in the same cycle; counters are then 0, as of a GEMM that began and was aborted at once",
    (
        "hdl/engine/control.py",
        "self.done.eq(busy & ~self.flushing & self.packet_sent),",
        "busy & ~self.flushing -> |",
    ): "a packet is sent by a GEMM that runs or by one that was aborted, behind which none begins",
    (
        "hdl/engine/sequencer.py",
        "fetch.eq(running & (mid_step | (free & self.weight_slots.filled.any()))),",
        "running & (mid_step | free & self.weight_slots.filled.any()) -> right",
    ): _NO_WEIGHTS,
    ("hdl/engine/sequencer.py", "m.d.sync += running.eq(0)", "running.eq(0) -> never changes"): _NO_WEIGHTS,
    (
        "hdl/engine/sequencer.py",
        "with m.Elif(fetch & at_end):",
        "fetch & at_end -> right",
    ): "the last fetch is the second of its step, which does not wait",
    (
        "hdl/pipeline.py",
        "m.d.sync += flag.eq(event | (flag & ~clear))",
        "flag & ~clear -> |",
    ): _FETCHED,
    (
        "hdl/engine/sequencer.py",
        'waits = wire(m, "waits_for_weights", ~ready & (order.first | ~order.valid))',
        "order.first | ~order.valid -> right",
    ): _FETCHED,
    (
        "hdl/engine/sequencer.py",
        "m.d.sync += begins.eq(issue & order.first)",
        "issue & order.first -> right",
    ): "the same weights are swapped in again: the next are fetched once the first row has gone",
    (
        "hdl/decoder.py",
        "nan = code[: E4M3.bits - 1] == E4M3.nan_codes.start",
        "code[:E4M3.bits - 1] -> one bit higher",
    ): _NAN,
    (
        "hdl/decoder.py",
        "nan = code[: E4M3.bits - 1] == E4M3.nan_codes.start",
        "code[:E4M3.bits - 1] == E4M3.nan_codes.start -> == 128",
    ): _NAN,
    (
        "hdl/decoder.py",
        "significand = Mux(nan, 0, Cat(mantissa, normal))",
        "Mux(nan, 0, Cat(mantissa, normal)) -> second",
    ): _NAN,
}


def reason(line: str) -> str | None:
    """Why the mutant FILE:LINE: CHANGE survives, where that was found out."""
    file, number, change = line.split(":", 2)
    source = (Path(__file__).parents[2] / file).read_text().splitlines()[int(number) - 1].strip()
    return _REASONS.get((file, source, change.strip()))

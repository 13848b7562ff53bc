"""Why survivors among the source's mutants are none of the regression's gaps, where no proof says so.

Each is a change that differs in registers and not in results, for a reason that takes more than one cycle, or knowledge
of which values occur. They were looked at one by one.
"""

__all__ = ["reason"]

_ISOLATION = "isolation of operands that are not used: power, not results"
_ZERO = "the sign of a zero, which is added as minus zero"
_NAN = "no NaN comes here: scales are legal and elements were saturated"
_UNUSED_STICKY = "what lies below a magnitude of 0, or beside one at its limit, decides no rounding"

_REASONS = {
    ("hdl/operands.py", "~sign & significand.any() -> left"): _ZERO,
    ("hdl/operands.py", "sign & significand.any() -> left"): _ZERO,
    ("hdl/dot.py", "(one | three) & Mux(w.signs[i], a.narrow_positives[i], a.narrow_negatives[i]) -> right"): _ZERO,
    ("hdl/dot.py", "w.nonzeros[i] & Mux(w.signs[i], positives[i], negatives[i]) -> right"): _ZERO,
    ("hdl/operands.py", "code[:3].any() & ~three & ~fp8 -> left"): _ISOLATION,
    ("hdl/operands.py", "three & ~fp8 -> left"): _ISOLATION,
    ("hdl/dot.py", "~(a.fp8 & w.fp8) & ~fp4 -> left"): _ISOLATION,
    ("hdl/dot.py", "~a.fp8 & (w.fp8 if self._split else 1) -> left"): _ISOLATION,
    ("hdl/dot.py", "used & ~(narrow & before & self.w_still) -> |"): _ISOLATION,
    ("hdl/dot.py", "used & ~(narrow & before & self.w_still) -> right"): _ISOLATION,
    ("hdl/dot.py", "s.fp4 | s.mixed -> &"): _ISOLATION,
    ("hdl/dot.py", "s.fp4 | s.mixed -> left"): _ISOLATION,
    ("hdl/dot.py", "s.fp4 | s.mixed -> right"): _ISOLATION,
    ("hdl/rows.py", "part[-1] & enable -> left"): _ISOLATION,
    ("hdl/pipeline.py", "reduce(and_, conditions) -> without the last"): _ISOLATION,
    (
        "hdl/rounding.py",
        "normalized[:-fmt.mantissa_bits - 2].any() -> without the lowest",
    ): "the lowest bit is set only by a sum whose top bit is: the one largest negative sum, whose lowest is not",
    ("hdl/lane.py", "valid & advance -> left"): "a flag that rises while its cause waits, not when it is taken",
    ("hdl/lane.py", "emit & advance -> left"): "a flag that rises while its cause waits, not when it is taken",
    ("hdl/fixed.py", "biased.any() -> without the lowest"): "an exponent so small that the magnitude is 0",
    ("hdl/fixed.py", "kept >= _LIMIT -> >"): _UNUSED_STICKY,
    ("hdl/fixed.py", "kept >= _LIMIT -> >= 917503"): _UNUSED_STICKY,
    ("hdl/fixed.py", "kept >= _LIMIT -> >= 917505"): _UNUSED_STICKY,
    ("hdl/fixed.py", "~zero & ~saturated -> |"): _UNUSED_STICKY,
    ("hdl/fixed.py", "~zero & ~saturated -> left"): _UNUSED_STICKY,
    ("hdl/fixed.py", "significand.any() -> all"): _UNUSED_STICKY,
    ("hdl/fixed.py", "significand.any() -> without the lowest"): _UNUSED_STICKY,
    ("hdl/fixed.py", "significand.any() -> without the highest"): _UNUSED_STICKY,
    ("hdl/fixed.py", "Mux(far, significand.any(), below) -> second"): _UNUSED_STICKY,
    ("hdl/fixed.py", "~zero & ~saturated & Mux(far, significand.any(), below) -> right"): _UNUSED_STICKY,
    ("hdl/fixed.py", "self.magnitude >= boundary -> >= 933887"): "an odd number of units, which a magnitude that is "
    "normalized to beyond 448 is not",
    ("hdl/decoder.py", "code[:E4M3.bits - 1] -> one bit higher"): _NAN,
    ("hdl/decoder.py", "code[:E4M3.bits - 1] == E4M3.nan_codes.start -> == 128"): _NAN,
    ("hdl/decoder.py", "Mux(nan, 0, Cat(mantissa, normal)) -> second"): _NAN,
}


def reason(line: str) -> str | None:
    """Why the mutant FILE:LINE: CHANGE survives, where that was found out. For selectors and lanes."""
    file, _, change = line.split(":", 2)
    return _REASONS.get((file, change.strip()))

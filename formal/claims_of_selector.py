"""Claims of selectors: every block of 16 values is free, NaN, infinity and subnormals included."""

from collections.abc import Iterator, Mapping
from fractions import Fraction

from ..formats import (
    BFLOAT16,
    BLOCK_SIZE,
    E2M1,
    E4M3,
    FLOAT32,
    MAX_BLOCK_SCALE_CODE,
    MAX_STORED,
    MIN_BLOCK_SCALE_CODE,
    SELECTOR_MODES,
    THRESHOLD_EXPONENT_BITS,
    THRESHOLD_SIGNIFICAND_BITS,
)
from .netlist import Netlist
from .solver import Solver
from .terms import Case, bits, boundary_codes, concat, count, extended, number, rounded, table

__all__ = ["decided", "scale_of_largest", "scored", "value_in_fp4", "value_in_fp8"]

_CODES, _SCALE, _FP8, _NAN, _SCORE = 0, 128, 136, 137, 139
"""Where the fields of a result begin."""

_SCORE_BITS = 38
_LATENCY = 2  # cycles of a selector of pipeline 0, that of the result included


class _Block:
    """A block of free values in a selector of pipeline 0, under free registers but for the mode and the exponent, 0.

    Attributes:
        counted: codes of the magnitudes, without sign; NaN counts as 0.
        result: what leaves the selector; `fp8`, `nan`, `scale` and `score` are parts of it.
    """

    def __init__(self, solver: Solver, unit: Netlist, fixed: Mapping[str, str]):
        self._solver, self._unit, self._fixed = solver, unit, fixed
        self.form = BFLOAT16 if unit.inputs["i_payload"] < FLOAT32.bits * BLOCK_SIZE else FLOAT32
        width = self.form.bits - 1
        for name in ("i_payload", "threshold", "mode"):
            solver.tell(f"(declare-fun {name} () (_ BitVec {unit.inputs[name]}))")
        values = [bits("i_payload", self.form.bits * i + width, self.form.bits * i) for i in range(BLOCK_SIZE)]
        self.signs = [bits(value, width, width) for value in values]
        self.is_nan = []
        self.counted = []
        for place, value in enumerate(values):
            magnitude = bits(value, width - 1, 0)
            self.is_nan.append(f"(bvuge {magnitude} {number(self.form.nan_codes.start, width)})")
            zero_if_nan = f"(ite {self.is_nan[-1]} {number(0, width)} {magnitude})"
            self.counted.append(self.define(f"counted {place}", width, zero_if_nan))
        self.static = bits("i_payload", self.form.bits * BLOCK_SIZE, self.form.bits * BLOCK_SIZE)

    def through(self, mode: str | None, tag: str = "c") -> "_Block":
        """The block through the selector, in one of the modes, or in any."""
        chosen = "mode" if mode is None else number(SELECTOR_MODES.index(mode), 2)
        settings = {**self._fixed, "threshold": "threshold", "mode": chosen, "tensor_exponent": number(0, 8)}
        settings |= {"rst": "#b0", "o_ready": "#b1"}
        if "four_over_six" in self._unit.inputs:
            settings["four_over_six"] = "#b0"
        first = {**settings, "i_payload": "i_payload", "i_valid": "#b1"}
        found = self._unit.run(self._solver, tag, [first, *[settings] * (_LATENCY - 1)])[-1]
        self.result, self.valid = found["o_payload"], found["o_valid"]
        self.fp8, self.nan = bits(self.result, _FP8, _FP8), bits(self.result, _NAN, _NAN)
        self.scale = bits(self.result, _SCALE + 7, _SCALE)
        self.score = bits(self.result, _SCORE + _SCORE_BITS - 1, _SCORE)
        return self

    def code(self, place: int, width: int) -> str:
        return bits(self.result, _CODES + width * (place + 1) - 1, _CODES + width * place)

    def any_nan(self) -> str:
        return f"(or {' '.join(self.is_nan)})"

    def define(self, name: str, width: int, term: str) -> str:
        self._solver.tell(f"(define-fun |{name}| () (_ BitVec {width}) {term})")
        return f"|{name}|"


def scale_of_largest(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """The block scale is the E4M3 code nearest to a sixth of the largest magnitude, ties to even, from 1 to 105."""
    block = _Block(solver, unit, fixed).through("all_fp4")
    yield "valid", f"(distinct {block.valid} #b1)"
    codes = range(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE)
    ups = boundary_codes(E4M3, Fraction(6), block.form)[codes.start : codes.stop]
    for place, largest in enumerate(block.counted):  # one of them is the largest
        above = " ".join(f"(bvuge {largest} {other})" for other in block.counted if other != largest)
        passed = rounded(largest, ups, 8, block.form.bits - 1)
        right = f"(bvadd {passed} {number(MIN_BLOCK_SCALE_CODE, 8)})"
        yield f"largest in position {place}", f"(and (not {block.any_nan()}) {above} (distinct {block.scale} {right}))"


def value_in_fp8(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Each code of an FP8 block is the nearest, ties to even, saturated; +0 for what rounds to zero; 0x7F for NaN."""
    block = _Block(solver, unit, fixed).through("all_fp8")
    ups = boundary_codes(E4M3, Fraction(1), block.form)
    yield "marked and without a scale", f"(or (distinct {block.fp8} #b1) (distinct {block.scale} {number(0, 8)}))"
    yield "NaN", f"(distinct (= {block.nan} #b1) {block.any_nan()})"
    for place in range(BLOCK_SIZE):
        magnitude = rounded(block.counted[place], ups, 7, block.form.bits - 1)
        code = f"(ite (= {magnitude} {number(0, 7)}) {number(0, 8)} {concat(block.signs[place], magnitude)})"
        right = f"(ite {block.is_nan[place]} {number(E4M3.nan_code, 8)} {code})"
        yield f"position {place}", f"(distinct {block.code(place, 8)} {right})"


def value_in_fp4(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Each code of an FP4 block is the nearest multiple of its block scale, ties to even, saturated, +0 for zero."""
    block = _Block(solver, unit, fixed).through("all_fp4")
    width = block.form.bits - 1
    clean = f"(not {block.any_nan()})"
    yield "marked", f"(distinct (= {block.fp8} #b1) {block.any_nan()})"
    yield "upper half", f"(and {clean} (distinct {bits(block.result, 127, 64)} {number(0, 64)}))"
    by_scale = [boundary_codes(E2M1, Fraction(E4M3.magnitude(max(code, 1))), block.form) for code in range(127)]
    by_scale.append(by_scale[-1])
    index = bits(block.scale, 6, 0)
    limits = []
    for step in range(len(E2M1.magnitudes) - 1):
        limit = table(index, [boundaries[step][0] for boundaries in by_scale], width)
        limits.append((block.define(f"limit {step}", width, limit), step % 2 == 1))
    for place in range(BLOCK_SIZE):
        passed = [f"({'bvuge' if tie else 'bvugt'} {block.counted[place]} {limit})" for limit, tie in limits]
        magnitude = count(passed, 3)
        right = f"(ite (= {magnitude} {number(0, 3)}) {number(0, 4)} {concat(block.signs[place], magnitude)})"
        yield f"position {place}", f"(and {clean} (distinct {block.code(place, 4)} {right}))"


def scored(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """The score of a block in which two values are not zero: each error, cut to three bits, squared, and summed."""
    block = _Block(solver, unit, fixed)
    score = block.through("all_fp4", "narrow").score
    narrow = [block.code(place, 4) for place in range(BLOCK_SIZE)]
    scale = bits(block.scale, 6, 0)
    block.through("all_fp8", "wide")
    wide = [block.code(place, 8) for place in range(BLOCK_SIZE)]
    yield "the same in both modes", f"(distinct {score} {block.score})"
    wide_values = [0 if code in E4M3.nan_codes else int(E4M3.magnitude(code) * 2**10) for code in range(128)]
    # Of all block scales, those that do not occur included, and all E2M1 codes.
    narrow_values = [int(scale * magnitude) for scale in wide_values for magnitude in E2M1.magnitudes]
    clean = f"(not {block.any_nan()})"
    for place in range(BLOCK_SIZE // 2):
        pair = place, BLOCK_SIZE - 1 - place
        squares = []
        for i in pair:
            four = block.define(f"four {i}", 22, table(concat(scale, bits(narrow[i], 2, 0)), narrow_values, 22))
            eight = block.define(f"eight {i}", 22, table(bits(wide[i], 6, 0), wide_values, 22))
            error = f"(ite (bvuge {four} {eight}) (bvsub {four} {eight}) (bvsub {eight} {four}))"
            squares.append(_square_of_three_bits(block.define(f"error {i}", 22, error)))
        zeros = " ".join(f"(= {block.counted[i]} {number(0, block.form.bits - 1)})" for i in range(16) if i not in pair)
        wrong = f"(distinct {score} (bvadd {' '.join(squares)}))"
        for code in range(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1):  # one by one, or it takes far too long
            here = f"(= {scale} {number(code, 7)})"
            yield f"positions {pair[0]} and {pair[1]}, block scale {code}", f"(and {here} {clean} {zeros} {wrong})"


def _square_of_three_bits(error: str) -> str:
    """The square of what is left of an error when everything below its three highest bits is cut off."""
    squares = [value * value for value in range(8)]
    term = table(bits(error, 2, 0), squares, _SCORE_BITS)
    for top in range(3, 19):
        square = concat(table(bits(error, top, top - 2), squares, 6), number(0, 2 * (top - 2)))
        square = extended(square, _SCORE_BITS - 6 - 2 * (top - 2))
        term = f"(ite (= {bits(error, 21, top)} {number(1, 22 - top)}) {square} {term})"
    return term


def decided(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """FP8 where the score is more than the threshold, by the static bit, always, never; and for NaN in any case."""
    block = _Block(solver, unit, fixed).through(None)
    room = _SCORE_BITS + (1 << THRESHOLD_EXPONENT_BITS)
    significand = bits("threshold", THRESHOLD_SIGNIFICAND_BITS - 1, 0)
    exponent = bits("threshold", THRESHOLD_SIGNIFICAND_BITS + THRESHOLD_EXPONENT_BITS - 1, THRESHOLD_SIGNIFICAND_BITS)
    threshold = f"(bvshl {extended(significand, room - 8)} {extended(exponent, room - 6)})"
    rules = {
        "dynamic": f"(bvugt {extended(block.score, room - _SCORE_BITS)} {threshold})",
        "static": f"(= {block.static} #b1)",
        "all_fp4": "false",
        "all_fp8": "true",
    }
    for index, name in enumerate(SELECTOR_MODES):
        here = f"(= mode {number(index, 2)})"
        yield name, f"(and {here} (distinct (= {block.fp8} #b1) (or {rules[name]} {block.any_nan()})))"


assert E4M3.magnitudes[-1] == MAX_STORED

"""Claims of decoders, dot products and the rounder."""

from collections.abc import Iterator, Mapping

from ..formats import (
    ACCUMULATOR_FRACTION_BITS,
    BFLOAT16,
    BLOCK_SIZE,
    E2M1,
    E4M3,
    FLOAT32,
    STORED_FRACTION_BITS,
    TENSOR_EXPONENT_LIMIT,
    MiniFloat,
)
from .netlist import Netlist
from .solver import Solver
from .terms import Case, bits, concat, extended, number, table

__all__ = ["decoded", "product_alone", "rounded_once"]


def decoded(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """significand << shift is the magnitude in the format's smallest unit, for every code; 0 for NaN."""
    found = unit.cycle(solver, "c", fixed)
    form = E4M3 if "shift" in unit.outputs else E2M1
    codes = range(1 << form.bits - 1)
    unit_value = form.magnitude(1)
    values = [0 if code in form.nan_codes else int(form.magnitude(code) / unit_value) for code in codes]
    width = max(values).bit_length()
    magnitude = bits(found["code"], form.bits - 2, 0)
    shift = extended(found["shift"], width - 4) if form is E4M3 else number(0, width)
    given = f"(bvshl {extended(found['significand'], width - 4)} {shift})"
    yield "magnitude", f"(distinct {given} {table(magnitude, values, width)})"
    yield "sign", f"(distinct {found['sign']} {bits(found['code'], form.bits - 1, form.bits - 1)})"
    if form is E4M3:
        yield "NaN", f"(distinct {found['nan']} {table(magnitude, [code in form.nan_codes for code in codes], 1)})"


def product_alone(solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Of a dot product of E4M3: one pair, the others 0, in the units of stored values, squared."""
    codes = range(1 << E4M3.bits - 1)
    values = [0 if code in E4M3.nan_codes else int(E4M3.magnitude(code) * 2**STORED_FRACTION_BITS) for code in codes]
    width = unit.outputs["term"]
    for name in "aw":
        solver.tell(f"(declare-fun {name} () (_ BitVec 8))")
    product = f"(bvmul {' '.join(table(bits(name, 6, 0), values, width) for name in 'aw')})"
    negative = f"(= {bits('(bvxor a w)', 7, 7)} #b1)"
    solver.tell(f"(define-fun product () (_ BitVec {width}) (ite {negative} (bvneg {product}) {product}))")
    nan = " ".join(f"(= {bits(name, 6, 0)} {number(E4M3.nan_codes.start, 7)})" for name in "aw")
    for place in range(BLOCK_SIZE):
        zeros = [number(0, 8)] * BLOCK_SIZE
        operands = {name: concat(*reversed([*zeros[:place], name, *zeros[place + 1 :]])) for name in "aw"}
        found = unit.cycle(solver, f"c{place}", {**fixed, **operands})
        for code in codes:  # one by one, which spares the solver the products of two unknowns
            here = f"(= {bits('w', 6, 0)} {number(code, 7)})"
            yield f"position {place}, code {code:#04x}", f"(and {here} (distinct {found['term']} product))"
        yield f"NaN in position {place}", f"(distinct (= {found['nan']} #b1) (or {nan}))"


def rounded_once(name: str, solver: Solver, unit: Netlist, fixed: Mapping[str, str]) -> Iterator[Case]:
    """Of the rounder: the nearest value, ties to even, for every sum and every legal exponent; zero and poison too.

    A case for every place of the sum's leading one, in which the result's distance from the sum is an integer.
    """
    form = FLOAT32 if name == "float32" else BFLOAT16
    width = unit.inputs["raw"]
    moving = {**fixed, "advance": "#b1", "rst": "#b0"}
    given = {"raw": "raw", "exponent": "exponent", "poisoned": "poisoned", "valid": "#b1"}
    solver.tell(f"(declare-fun raw () (_ BitVec {width}))", "(declare-fun exponent () (_ BitVec 8))")
    solver.tell("(declare-fun poisoned () (_ BitVec 1))")
    later = {"valid": "#b0"}
    found = unit.run(solver, "c", [{**moving, **given}, {**moving, **later}, {**moving, **later}, {**moving}])[-1]
    result = found[name]
    yield "valid", f"(distinct {found['valid_out']} #b1)"
    yield "the sum itself", f"(distinct {found['raw_out']} raw)"
    yield "poisoned", f"(and (= poisoned #b1) (distinct {result} {number(form.nan_code, form.bits)}))"
    clean = "(= poisoned #b0)"
    yield "zero", f"(and {clean} (= raw {number(0, width)}) (distinct {result} {number(0, form.bits)}))"
    sign = bits("raw", width - 1, width - 1)
    solver.tell(f"(define-fun magnitude () (_ BitVec {width}) (ite (= {sign} #b1) (bvneg raw) raw))")
    least, most = (number(limit, 8) for limit in (-2 * TENSOR_EXPONENT_LIMIT, 2 * TENSOR_EXPONENT_LIMIT))
    clamped = f"(ite (bvslt exponent {least}) {least} (ite (bvsgt exponent {most}) {most} exponent))"
    mantissa = form.mantissa_bits
    solver.tell(f"(define-fun scale () (_ BitVec 10) {extended(clamped, 2, signed=True)})")
    for top in range(width):
        here = f"(and {clean} (= {bits('magnitude', width - 1, top)} {number(1, width - top)}))"
        yield f"leading one at {top}", f"(and {here} {_wrong(form, result, sign, top, width, mantissa)})"


def _wrong(form: MiniFloat, result: str, sign: str, top: int, width: int, mantissa: int) -> str:
    """That `result` is not what the magnitude, whose leading one is at `top`, rounds to."""
    room = width + form.bits  # every shift below stays within it
    kept = extended(concat("#b1", bits(result, mantissa - 1, 0)), room - mantissa - 1)
    exact = extended("magnitude", room - width)
    # Bits of the magnitude below the last place of the result; none or fewer where the result is exact.
    drop = top - mantissa
    bias = form.bias - ACCUMULATOR_FRACTION_BITS
    exponent = extended(bits(result, form.bits - 2, mantissa), 2)

    def expected(place: int) -> str:
        return f"(= {exponent} (bvadd scale {number(place + bias, 10)}))"

    if drop <= 0:
        shifted = f"(bvshl {exact} {number(-drop, room)})"
        right = f"(and {expected(top)} (= {kept} {shifted}))"
    else:
        unit = number(1 << drop, room)
        value = f"(bvmul {kept} {unit})"
        half = number(1 << drop - 1, room)
        odd = f"(= {bits(result, 0, 0)} #b1)"
        above, below = f"(bvsub {exact} {value})", f"(bvsub {value} {exact})"
        tie = f"(and (or (= {above} {half}) (= {below} {half})) (not {odd}))"
        near = f"(or (bvult {above} {half}) (bvult {below} {half}) {tie})"
        # Rounded up to the next power of two: the significand is one, in units twice as large.
        carried = f"(and {expected(top + 1)} (= {bits(result, mantissa - 1, 0)} {number(0, mantissa)}) "
        carried += f"(bvuge {exact} {number((2 << top) - (1 << drop - 1), room)}))"
        right = f"(or (and {expected(top)} {near}) {carried})"
    return f"(not (and (= {bits(result, form.bits - 1, form.bits - 1)} {sign}) {right}))"


assert STORED_FRACTION_BITS * 2 == ACCUMULATOR_FRACTION_BITS

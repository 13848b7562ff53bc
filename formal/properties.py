"""What is proven, as data: of which unit, what is claimed, by which cases, and a fault that must make it fail.

The claims are written from the constants of `fgmp.formats` and from docs/numerics.md. They use tables and comparisons
with exact boundaries, never the recipe of the hardware.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

from ..hdl.config import Config, DecoderConfig, DotConfig, LaneConfig, SelectorConfig, preset
from ..hdl.design import Design, build
from ..hdl.faults import SELECTOR_FAULTS
from .claims_of_lane import decoded, product_alone, rounded_once
from .claims_of_selector import decided, scale_of_largest, scored, value_in_fp4, value_in_fp8
from .claims_of_streams import (
    answers_after_questions,
    axi_holds_while_waiting,
    axi_valid_before_ready,
    holds_while_waiting,
    moves_one_for_one,
    valid_before_ready,
)
from .netlist import Netlist
from .solver import Solver
from .terms import Case

__all__ = ["NOT_PROVEN", "PROPERTIES", "Property", "unit_of"]


@dataclass(frozen=True)
class Property:
    """One claim.

    Attributes:
        name: for the command line and the page.
        claim: in words.
        config: of the unit.
        cases: all together are the claim. They get a solver, the unit's netlist, and inputs that are fixed.
        fault: the name of a planted fault of the selector, or a change of the Verilog: a regular expression, and what
            replaces its first match.
        top: the module of the unit that is looked at, without the unit's name; the whole unit if empty.
    """

    name: str
    claim: str
    config: Config
    cases: Callable[[Solver, Netlist, Mapping[str, str]], Iterator[Case]]
    fault: str | tuple[str, str]
    top: str = ""


@cache
def _built(config: Config, *, faults: bool = False) -> Design:
    return build(config, "unit", faults=faults)


def unit_of(item: Property, *, faulty: bool = False) -> tuple[Design, dict[str, str]]:
    """The unit, or the one with the planted fault, and inputs that are fixed."""
    if not faulty:
        return _built(item.config), {}
    if isinstance(item.fault, str):
        design = _built(item.config, faults=True)
        return design, {"fault_select": f"(_ bv{SELECTOR_FAULTS.index(item.fault) + 1} "
                                        f"{design.port('fault_select').width})"}  # fmt: skip
    design = _built(item.config)
    changed, times = re.subn(item.fault[0], item.fault[1], design.verilog, count=1)
    assert times == 1, f"{item.name}: {item.fault[0]!r} is nowhere in the Verilog"
    return replace(design, verilog=changed), {}


_NARROW, _WIDE = SelectorConfig("bfloat16", pipeline=0), SelectorConfig(pipeline=0)
_LANE, _DEEP_LANE, _DEEP_SELECTOR = LaneConfig(4096, 0), preset("lane"), preset("selector")
_ENGINE = preset("engine-4")
_ALWAYS_READY = (r"assign i_ready = ", "assign i_ready = 1'h1 | ")
_VALID_WITH_READY = (r"assign o_payload = \{", "assign o_payload = {1024{o_ready}} & {")


def _of_selectors(name: str, claim: str, cases: Callable[..., Iterator[Case]], fault: str) -> list[Property]:
    return [
        Property(
            f"{name}-{config.input_format}", f"{claim}, for every block of {config.input_format}", config, cases, fault
        )
        for config in (_NARROW, _WIDE)
    ]


PROPERTIES: tuple[Property, ...] = (
    Property("decode-e4m3", "sign, significand, shift and NaN of every E4M3 code", DecoderConfig("E4M3"), decoded,
             ("7'h7f", "7'h7e")),
    Property("decode-e2m1", "sign and significand of every E2M1 code", DecoderConfig("E2M1"), decoded,
             ("- 2'h1", "- 2'h0")),
    Property("product", "two E4M3 codes in any position of a dot product, the others 0, give their exact product",
             DotConfig("fp8"), product_alone, (r"8'h01 << product_shifts_9", "8'h03 << product_shifts_9")),
    Property("round-float32", "every sum and exponent is rounded once to float32, ties to even; zero and poison",
             _LANE, partial(rounded_once, "float32"), (r"\(\(\| (normalized_normalized\[25:0\])\) \| ", r"((| \1) & "),
             "rounder"),
    Property("round-bfloat16", "every sum and exponent is rounded once to bfloat16, ties to even; zero and poison",
             _LANE, partial(rounded_once, "bfloat16"),
             (r"normalized_normalized\[41:0\]", "normalized_normalized[41:30]"), "rounder"),
    *_of_selectors("block-scale", "the scale is E4M3's nearest to a sixth of the largest magnitude, from 1 to 105",
                   scale_of_largest, "block scale tie rounds up"),
    *_of_selectors("fp4-codes", "each code is the nearest multiple of the block scale, ties to even, saturated",
                   value_in_fp4, "E2M1 tie rounds up"),
    *_of_selectors("fp8-codes", "each code is E4M3's nearest, ties to even, saturated; 0x7F for NaN", value_in_fp8,
                   "E4M3 tie rounds down"),
    *_of_selectors("decision", "score against threshold, static bit, modes and NaN decide the precision", decided,
                   "score equal to threshold is FP8"),
    Property("score", "the three-bit cut of each error, squared, and the sum of two of them",
             _NARROW, scored, "error cut to two bits"),
    Property("lane-holds", "a result of a lane stays, unchanged, until it is taken", _DEEP_LANE, holds_while_waiting,
             _ALWAYS_READY),
    Property("lane-valid", "a lane's valid and payload depend on no input of the same cycle", _DEEP_LANE,
             valid_before_ready, _VALID_WITH_READY),
    Property("selector-holds", "a result of a selector stays, unchanged, until it is taken", _DEEP_SELECTOR,
             holds_while_waiting, _ALWAYS_READY),
    Property("selector-valid", "a selector's valid and payload depend on no input of the same cycle", _DEEP_SELECTOR,
             valid_before_ready, _VALID_WITH_READY),
    Property("selector-balance", "blocks in a selector are those taken less those given; none after reset",
             _DEEP_SELECTOR, moves_one_for_one, _ALWAYS_READY),
    Property("axi-holds", "what the engine offers on a channel stays, unchanged, until taken (IHI 0022, IHI 0051)",
             _ENGINE, axi_holds_while_waiting, (r"else if \(axi_rready\)", "else if (1'h1)")),
    Property("axi-registered", "no output of the engine depends on an input of the same cycle", _ENGINE,
             axi_valid_before_ready, (r"assign axi_awready = ", "assign axi_awready = axi_awvalid & ")),
    Property("axi-answers", "each register access is answered once, a write after both its address and its data",
             _ENGINE, answers_after_questions, (r"address_there <= 1'h1;", "address_there <= 1'h0;")),
)  # fmt: skip

NOT_PROVEN: tuple[tuple[str, str], ...] = (
    ("the sum of 16 products", "adder trees of 16 operands are beyond SAT; all pairs alone are proven, sums simulated"),
    ("products in the modes that have FP4", "every pair of codes in every position, and of block scales, is simulated"),
    ("the sum of more than two squares of a score", "as above"),
    ("merged, split and every pipeline depth compute the same", "each is simulated against the golden model"),
    ("tensor exponents other than 0 in the selector", "every one is simulated, at ties and at both limits"),
    ("four over six, channel codes", "simulated at every tie and boundary"),
    ("the engine comes back to idle whatever is written to it", "simulated: ABORT and reset at every moment of a GEMM"),
    ("results of the engine", "simulated against the golden model"),
)
"""What one might expect here, and what stands in for it."""

"""Amaranth to Verilog that lints clean: equal operand widths, no unused bits, no initial values, plain names."""

import functools
import re
import tempfile
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain
from amaranth.lib import wiring

from .yosys import run_yosys

__all__ = ["to_verilog"]

# Registers lose their initial values
# because reset, not configuration, defines the state (docs/decisions/0003-verilog.md).
_SCRIPT = """\
read_rtlil design.il
flatten
proc
opt_expr
opt_clean
wreduce
opt_expr
opt_clean -purge
pmuxtree
opt_expr
splitnets -driver
opt_clean -purge
setattr -unset init w:*
techmap -map widths.v
opt_clean -purge
write_verilog -norename -noattr design.v
"""

# What a technology-mapping rule needs to extend an operator's operands explicitly. Verilog would extend them by its
# context rules, with the same result and a lint warning each.
_WIDTH_RULE = """\
(* techmap_celltype = "${operator}" *)
module extend_{operator} (A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  localparam W = {width};
  localparam WA = A_WIDTH > W ? A_WIDTH : W;
  localparam WB = {extend_b} && B_WIDTH < W ? W : B_WIDTH;
  wire _TECHMAP_FAIL_ = A_WIDTH == WA && B_WIDTH == WB;
  wire [WA-1:0] a;
  wire [WB-1:0] b;
  generate
    if (A_SIGNED) assign a = $signed(A);
    else assign a = A;
    if (B_SIGNED) assign b = $signed(B);
    else assign b = B;
  endgenerate
  \\${operator} #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WA), .B_WIDTH(WB), .Y_WIDTH(Y_WIDTH))
    _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
endmodule
"""
# Verilog's `!` of a vector is one bit of truth; linters want to see the reduction.
_NOT_RULE = """\
(* techmap_celltype = "$logic_not" *)
module reduce_logic_not (A, Y);
  parameter A_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH == 1 || Y_WIDTH != 1;
  wire any = |A;
  assign Y = ~any;
endmodule
"""
_EXTENDED_TO = {
    **dict.fromkeys(("add", "sub", "mul", "and", "or", "xor"), ("Y_WIDTH", 1)),
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne"), ("(A_WIDTH > B_WIDTH ? A_WIDTH : B_WIDTH)", 1)),
    "shl": ("Y_WIDTH", 0),
}


def to_verilog(unit: wiring.Component, name: str, *, separator: str = "_", reset: bool = True) -> str:
    """The Verilog of `unit` as one module `name`, submodules flattened into it.

    Ports of interfaces are named PREFIX, `separator`, MEMBER. Without `reset` there is no port for one.
    """
    rules = "".join(
        _WIDTH_RULE.format(operator=operator, width=width, extend_b=extend_b)
        for operator, (width, extend_b) in _EXTENDED_TO.items()
    )
    design = _rtlil(unit, name, separator, reset)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.il").write_text(design)
        (work / "widths.v").write_text(rules + _NOT_RULE)
        (work / "script.ys").write_text(_SCRIPT)
        run_yosys(work, name, "-s", "script.ys")
        return _plain_names((work / "design.v").read_text())


def _rtlil(unit: wiring.Component, name: str, separator: str, reset: bool) -> str:
    domain = functools.partial(ClockDomain, reset_less=not reset)
    text: str = rtlil.convert(unit, name=name, emit_src=False, missing_domain=domain)
    for path, _, _ in unit.signature.flatten(unit):  # amaranth joins them by two underscores
        if len(path) > 1:
            old, new = ("\\" + between.join(map(str, path)) for between in ("__", separator))
            text = re.sub(rf"{re.escape(old)}(?!\S)", re.escape(new), text)
    return text


def _plain_names(text: str) -> str:
    """Replace escaped identifiers by plain ones that collide with nothing, in order of appearance."""
    text = re.sub(r"^/\*.*\*/\n", "", text, flags=re.MULTILINE).lstrip("\n")
    taken = set(re.findall(r"(?<![\\\w.$\[\]])[A-Za-z_]\w*", text))
    plain: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        old = match[1]
        if old not in plain:
            # Generated names carry the generator's source lines: keep their numbers only.
            new = re.sub(r"\$(?:auto|procmux|flatten\\?)\$.*?\$(\d+)", r"\$\1", old)
            new = re.sub(r"\W+", "_", new).strip("_")
            if not new[:1].isalpha():
                new = f"n{new}"
            while new in taken:
                new += "_"
            taken.add(new)
            plain[old] = new
        return plain[old]

    return re.sub(r"\\(\S+)", rename, text)

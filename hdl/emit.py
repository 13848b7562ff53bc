"""Amaranth to Verilog that lints clean: equal operand widths, no unused bits, no initial values, plain names."""

import tempfile
from pathlib import Path

from amaranth.lib import wiring

from .hierarchy import Hierarchy
from .readable import readable
from .verilog_text import parse_modules, prune
from .yosys import run_yosys

__all__ = ["to_verilog"]

# Registers lose their initial values because reset, not configuration, defines the state
# (docs/decisions/0003-verilog.md).
_SCRIPT = """\
read_rtlil design.il
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


def to_verilog(
    unit: wiring.Component,
    name: str,
    *,
    separator: str = "_",
    reset: bool = True,
    flat: bool = False,
) -> str:
    """The Verilog of `unit` as the module `name`, followed by its parts' modules, which are called after it.

    Ports of interfaces are named PREFIX, `separator`, MEMBER. Without `reset` there is no port for one. With `flat`
    there is one module, for parts that reach into each other.
    """
    hierarchy = Hierarchy(name, separator)
    hierarchy.convert(unit, name, reset=reset, flat=flat)
    rules = "".join(
        _WIDTH_RULE.format(operator=operator, width=width, extend_b=extend_b)
        for operator, (width, extend_b) in _EXTENDED_TO.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.il").write_text("\n".join(module.rtlil for module in hierarchy.modules.values()))
        (work / "widths.v").write_text(rules + _NOT_RULE)
        (work / "script.ys").write_text(_SCRIPT.replace("proc", "flatten\nproc", 1) if flat else _SCRIPT)
        run_yosys(work, name, "-s", "script.ys")
        text = (work / "design.v").read_text()
    modules = parse_modules(text)
    prune(modules, name)
    written = []
    for module in reversed(hierarchy.modules):  # what instantiates others stands before them
        converted = hierarchy.modules[module]
        written.append(f"// {converted.purpose}\n{readable(modules[module], converted.ports)}")
    return "\n".join(written)

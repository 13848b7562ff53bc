"""Which names a module may have: plain identifiers that no Verilog or SystemVerilog tool reads as something else."""

import re
from collections.abc import Iterable

from ..errors import InputError

__all__ = ["KEYWORDS", "check_module_name", "check_unused", "variant_name"]

KEYWORDS = frozenset(
    """
    accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin
    bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking cmos
    config const constraint context continue cover covergroup coverpoint cross deassign default defparam design
    disable dist do edge else end endcase endchecker endclass endclocking endconfig endfunction endgenerate
    endgroup endinterface endmodule endpackage endprimitive endprogram endproperty endsequence endspecify
    endtable endtask enum event eventually expect export extends extern final first_match for force foreach
    forever fork forkjoin function generate genvar global highz0 highz1 if iff ifnone ignore_bins illegal_bins
    implements implies import incdir include initial inout input inside instance int integer interconnect
    interface intersect join join_any join_none large let liblist library local localparam logic longint
    macromodule matches medium modport module nand negedge nettype new nexttime nmos nor noshowcancelled not
    notif0 notif1 null or output package packed parameter pmos posedge primitive priority program property
    protected pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent pure rand randc randcase
    randsequence rcmos real realtime ref reg reject_on release repeat restrict return rnmos rpmos rtran rtranif0
    rtranif1 s_always s_eventually s_nexttime s_until s_until_with scalared sequence shortint shortreal
    showcancelled signed small soft solve specify specparam static string strong strong0 strong1 struct super
    supply0 supply1 sync_accept_on sync_reject_on table tagged task this throughout time timeprecision timeunit
    tran tranif0 tranif1 tri tri0 tri1 triand trior trireg type typedef union unique unique0 unsigned until
    until_with untyped use uwire var vectored virtual void wait wait_order wand weak weak0 weak1 while wildcard
    wire with within wor xnor xor
    """.split()  # noqa: SIM905 (words read best as words)
)
"""The reserved words of IEEE 1800-2017, annex B, which are those of IEEE 1364-2005 too."""

_LONGEST = 200


def check_module_name(name: str, contained: Iterable[str] = ()) -> None:
    """Raise InputError unless `name` can be a module's, beside the modules that it contains."""
    expected = None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        expected = "a plain Verilog identifier"
    elif name in KEYWORDS:
        expected = "none that is a keyword of Verilog or SystemVerilog"
    elif name.lower() in {part.lower() for part in contained}:
        expected = "another one than those of an engine's parts"
    elif len(name) > _LONGEST:
        expected = f"at most {_LONGEST} characters"
    if expected is not None:
        shown = name if len(name) <= _LONGEST else f"{name[:40]}..."
        raise InputError(f"module name: {shown!r}, expected {expected}")


def check_unused(name: str, verilog: str) -> None:
    """Raise InputError where a unit's text uses its own name for something inside, which linters call hiding."""
    code = re.sub(r"//.*", "", verilog)
    if len(re.findall(rf"\b{name}\b", code)) > 1:
        raise InputError(f"module name: {name!r}, expected none that the unit has for a port or a signal")


def variant_name(preset: str, changes: dict[str, int | str | bool]) -> str:
    """The module name of a preset with changed parameters: two variants can then stand in one design."""
    parts = [preset, *(f"{name}_{str(value).lower()}" for name, value in changes.items())]
    return re.sub(r"\W", "_", "_".join(parts))

"""What a viewer shows of a unit: ports by field, blocks by element, stored values as real numbers.

A view is a SystemVerilog module that `bind` puts inside the unit, for simulation alone: no viewer can cut an element
out of a payload and multiply it by its block's scale, so a module does. It only reads.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...formats import ACCUMULATOR_FRACTION_BITS, BFLOAT16, BLOCK_SIZE, E2M1, E4M3, FLOAT32, MiniFloat
from ...hdl.config import EngineConfig
from ...hdl.design import Design, Port

__all__ = ["INSTANCE", "Group", "Row", "View", "make_view"]

INSTANCE = "view"
"""The view's name inside the unit."""

_BLOCK_FIELDS = {"codes": 8 * BLOCK_SIZE, "scale": 8, "fp8": 1}
_FLOATS = {"float32": FLOAT32, "bfloat16": BFLOAT16}
_DECODED = {"mode": "selector_mode", "s_axi_awaddr": "register", "s_axi_araddr": "register",
            "s_axi_bresp": "response", "s_axi_rresp": "response"}  # fmt: skip
_INSIDE = {
    "control": ("begin_gemm", "busy", "done", "abort", "kill", "flushing"),
    "registers": ("m__value", "n__value", "k__value", "format__exponent", "format__output"),
    "events": (),
}
"""Groups of signals of an engine's core; events are those whose names begin so."""


@dataclass(frozen=True)
class Row:
    """A signal: its path below the unit, its width, how a viewer prints it.

    `form` is hex, signed, real, or the name of a decoder. `width` is 0 for real numbers.
    """

    path: str
    width: int
    form: str = "hex"


@dataclass(frozen=True)
class Group:
    """Rows under a title; `closed` ones are folded at first."""

    title: str
    rows: tuple[Row, ...]
    closed: bool = False


@dataclass(frozen=True)
class View:
    """The groups, top to bottom, and the module that has what the unit itself does not; it binds itself."""

    groups: tuple[Group, ...]
    verilog: str

    @property
    def rows(self) -> list[Row]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group.rows]


def make_view(design: Design) -> View:
    """The view of a unit: of an engine its buses, control, events and the blocks at its first lane."""
    builder = _Builder(design)
    if isinstance(design.config, EngineConfig):
        builder.engine()
    else:
        builder.unit()
    return View(tuple(builder.groups), builder.verilog())


class _Builder:
    def __init__(self, design: Design):
        self._design = design
        self._inputs: dict[str, tuple[int, str]] = {}
        self._body: list[str] = []
        self.groups: list[Group] = []

    def unit(self) -> None:
        clocks = [Row(p.name, p.width) for p in self._design.ports if p.name in ("clk", "rst")]
        self._group("clock", clocks)
        streams = {name.removesuffix("_payload") for name in self._names() if name.endswith("_payload")}
        for stream in sorted(streams):  # the input is called i, the output o
            handshake = [Row(f"{stream}_{end}", 1) for end in ("valid", "ready")]
            port = self._design.port(f"{stream}_payload")
            self._group(f"stream {stream}", [*handshake, *self._fields(port, stream, f"{stream}_valid")])
            self._blocks(port, stream, f"{stream}_valid")
        taken = {row.path for group in self.groups for row in group.rows}
        rest = [p for p in self._design.ports if p.name not in taken and not p.name.endswith("_payload")]
        self._group("settings and flags", [Row(p.name, p.width, _form(p.name, p.width)) for p in rest])

    def engine(self) -> None:
        ports = self._design.ports
        self._group("clock", [Row(p.name, p.width) for p in ports if p.name in ("aclk", "aresetn", "irq")])
        for bus in dict.fromkeys(p.name.rpartition("_")[0] for p in ports if "_" in p.name):
            rows = [Row(p.name, p.width, _form(p.name, p.width)) for p in ports if p.name.rpartition("_")[0] == bus]
            self._group(bus, rows)
        core = _declared(self._design, f"{self._design.name}_core")
        for title, names in _INSIDE.items():
            found = [n for n in core if (n in names if names else n.startswith(f"{title}__"))]
            forms = {"format__output": "output_format", "format__exponent": "signed"}
            self._group(title, [Row(f"core.{n}", core[n], forms.get(n, "hex")) for n in found])
        decoder = _declared(self._design, f"{self._design.name}_core_activation_decoder")
        lane = _declared(self._design, f"{self._design.name}_core_lane")
        rows = self._rows_of_record("activations", decoder["stored"], "core.activation_decoder.stored",
                                    "core.activation_decoder.valid")  # fmt: skip
        self._group("activation block, at all lanes", [Row("core.activation_decoder.valid", 1), *rows])
        rows = self._rows_of_record("weights", lane["w"], "core.lane_0.w", "core.lane_0.load")
        self._group("weight block, as lane 0 loads it", [Row("core.lane_0.load", 1), Row("core.lane_0.swap", 1), *rows])
        width = lane["sum"] - 1  # and a poison bit above
        self._input("lane_0_sum", width + 1, "core.lane_0.sum")
        rows = [
            self._real("lane_0_sum_value", _fixed(f"lane_0_sum[0 +: {width}]")),
            self._wire("lane_0_poisoned", 1, f"lane_0_sum[{width}]", "hex"),
        ]
        self._group("accumulator sum, lane 0", [*rows, Row("core.lane_0.sum", width + 1)])

    def verilog(self) -> str:
        """The module and the statement that binds it."""
        name = f"{self._design.name}_view"
        ports = ",\n".join(f"  input {_range(width)}{port}" for port, (width, _) in self._inputs.items())
        joined = ", ".join(f".{port}({source})" for port, (_, source) in self._inputs.items())
        functions = [_to_real(number) for number in (E2M1, E4M3, FLOAT32, BFLOAT16)]
        lines = [
            f"// What a waveform viewer shows of {self._design.name}: for simulation alone, bound into it. Only reads.",
            "// verilator lint_off UNUSEDSIGNAL",
            f"module {name} (",
            ports,
            ");",
            *functions,
            *self._body,
            "endmodule",
            "// verilator lint_on UNUSEDSIGNAL",
            f"bind {self._design.name} {name} {INSTANCE} ({joined});",
        ]
        return "\n".join([*lines, ""])

    def _names(self) -> list[str]:
        return [port.name for port in self._design.ports]

    def _group(self, title: str, rows: list[Row], closed: bool = False) -> None:
        if rows:
            self.groups.append(Group(title, tuple(rows), closed))

    def _input(self, name: str, width: int, source: str) -> None:
        self._inputs[name] = (width, source)

    def _wire(self, name: str, width: int, value: str, form: str) -> Row:
        self._body.append(f"  wire {_range(width)}{name} = {value};")
        return Row(f"{INSTANCE}.{name}", width, form)

    def _real(self, name: str, value: str, valid: str = "") -> Row:
        self._body += [f"  real {name};", f"  always_comb {name} = {f'{valid} ? {value} : 0.0' if valid else value};"]
        return Row(f"{INSTANCE}.{name}", 0, "real")

    def _fields(self, port: Port, stream: str, valid: str) -> Iterator[Row]:
        """What is no part of a block, at the payload `port`."""
        self._input(port.name, port.width, port.name)
        self._input(valid, 1, valid)
        blocks = _block_prefixes(port)
        for name, (offset, width) in port.fields.items():
            prefix, _, last = name.rpartition(".")
            if last in _BLOCK_FIELDS and prefix in blocks:
                continue
            plain = f"{stream}_{name.replace('.', '_')}"
            bits = f"{port.name}[{offset} +: {width}]"
            if name == "x":  # a selector's input
                number = FLOAT32 if width == FLOAT32.bits * BLOCK_SIZE else BFLOAT16
                for i in range(BLOCK_SIZE):
                    element = f"{port.name}[{offset + number.bits * i} +: {number.bits}]"
                    yield self._real(f"{plain}_{i}", _call(number, element), valid)
            elif name in _FLOATS:
                yield self._real(plain, _call(_FLOATS[name], bits), valid)
            else:
                yield self._wire(plain, width, bits, "hex")
                if name == "raw":
                    yield self._real(f"{plain}_value", _fixed(bits), valid)

    def _blocks(self, port: Port, stream: str, valid: str) -> None:
        for prefix in _block_prefixes(port):
            whole = f"{prefix}." if prefix else ""
            offset, _ = port.fields[f"{whole}codes"]
            width = sum(port.fields[f"{whole}{n}"][1] for n in _BLOCK_FIELDS if f"{whole}{n}" in port.fields)
            name = "_".join(filter(None, (stream, prefix)))
            rows = self._rows_of_block(name, f"{port.name}[{offset} +: {width}]", width, valid)
            self._group(f"block {name}", rows[0])
            self._group(f"codes of block {name}", rows[1], closed=True)

    def _rows_of_record(self, name: str, width: int, source: str, valid: str) -> list[Row]:
        self._input(f"{name}_record", width, source)
        self._input(f"{name}_valid", 1, valid)
        values, codes = self._rows_of_block(name, f"{name}_record", width, f"{name}_valid")
        self._group(f"codes of {name}", codes, closed=True)
        return values

    def _rows_of_block(self, name: str, bits: str, width: int, valid: str) -> tuple[list[Row], list[Row]]:
        """Rows of precision, scale and stored values, and rows of codes: `bits` are codes, scale and precision bit."""
        block = f"{name}_block"
        self._body.append(f"  wire [{width - 1}:0] {block} = {bits};")
        mixed = width == sum(_BLOCK_FIELDS.values())
        values, codes = [], []
        if mixed:
            values.append(self._wire(f"{name}_precision", 2, f"{{1'b0, {block}[{width - 1}]}}", "precision"))
            values.append(self._wire(f"{name}_scale", 8, f"{block}[{8 * BLOCK_SIZE} +: 8]", E4M3.name.lower()))
        for i in range(BLOCK_SIZE):
            wide = f"{name}_e4m3_{i}"
            codes.append(self._wire(wide, 8, f"{block}[{8 * i} +: 8]", E4M3.name.lower()))
            value = _call(E4M3, wide)
            if mixed:
                narrow = f"{name}_e2m1_{i}"
                codes.append(self._wire(narrow, 4, f"{block}[{4 * i} +: 4]", E2M1.name.lower()))
                value = f"({block}[{width - 1}] ? {value} : {_call(E2M1, narrow)} * {_call(E4M3, f'{name}_scale')})"
            values.append(self._real(f"{name}_value_{i}", value, valid))
        return values, codes


def _block_prefixes(port: Port) -> list[str]:
    """The parts of a payload that are blocks: what stands before "codes" in the names of its fields."""
    return [name.rpartition(".")[0] for name in port.fields if name.rpartition(".")[2] == "codes"]


def _declared(design: Design, module: str) -> dict[str, int]:
    """Ports, wires and registers of a module of the unit's Verilog, with their widths."""
    text = re.search(rf"^module {module} \(.*?^endmodule", design.verilog, re.MULTILINE | re.DOTALL)
    assert text is not None, f"{design.name}: no module {module}"
    declared = r"^  (?:input|output|wire|reg)(?: reg)?(?: signed)? (?:\[(\d+):0\] )?(\w+)[;,]?$"
    return {name: int(top or 0) + 1 for top, name in re.findall(declared, text[0], re.MULTILINE)}


def _form(name: str, width: int) -> str:
    return _DECODED.get(name, "signed" if name.endswith("exponent") and width > 1 else "hex")


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def _call(number: MiniFloat, bits: str) -> str:
    return f"{number.name.lower()}({bits})"


def _fixed(bits: str) -> str:
    """A signed accumulator as a real number."""
    return f"real'($signed({bits})) * 2.0 ** (-{ACCUMULATOR_FRACTION_BITS})"


def _to_real(number: MiniFloat) -> str:
    """A SystemVerilog function from codes to reals."""
    top, fraction = number.bits - 1, number.mantissa_bits
    exponent, mantissa = f"pattern[{top - 1}:{fraction}]", f"pattern[{fraction - 1}:0]"
    least = 1 - number.bias - fraction  # exponent of the last place of the smallest values
    lines = [f"function automatic real {number.name.lower()}(input [{top}:0] pattern);", "  real magnitude;"]
    codes = " || ".join(f"pattern[{top - 1}:0] == {code}" for code in number.nan_codes[:1])
    nan = f"&{exponent}" if number.has_infinity else codes
    if nan:  # infinity saturates before anything is computed: it is shown as NaN
        lines.append(f"  if ({nan}) return $bitstoreal(64'h7FF8_0000_0000_0000);")
    lines += [
        f"  if ({exponent} == 0) magnitude = real'({mantissa}) * 2.0 ** ({least});",
        f"  else magnitude = real'({{1'b1, {mantissa}}}) * 2.0 ** (real'({exponent}) + ({least - 1}));",
        f"  return pattern[{top}] ? -magnitude : magnitude;",
        "endfunction",
    ]
    return "\n".join(f"  {line}" for line in lines)

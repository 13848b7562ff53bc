"""Project files: LibreLane, OpenROAD-flow-scripts, Vivado. They are written for the tools' current releases."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...errors import InputError
from ...files import write_files
from ...hdl.config import EngineConfig
from ...hdl.design import Design
from ...hdl.wrappers import RAM_MODULE as _RAM
from .constraints import constraints

__all__ = ["TOOLS", "Memory", "export", "memories"]

TOOLS = ("librelane", "openroad", "vivado")


@dataclass(frozen=True)
class Memory:
    """An instance of the memory wrapper."""

    instance: str
    width: int
    depth: int


def memories(verilog: str) -> list[Memory]:
    """The memories of a design, from its Verilog; each is named by its path of instances below the top."""
    bodies = dict(re.findall(r"^module (\w+)(.*?)^endmodule", verilog, re.MULTILINE | re.DOTALL))
    instance = re.compile(rf"^\s*({'|'.join(bodies)})\s+(?:#\((.*?)\)\s+)?(\w+)\s*\(", re.MULTILINE | re.DOTALL)
    inside = {name: instance.findall(body) for name, body in bodies.items()}
    used = {kind for found in inside.values() for kind, _, _ in found}

    def below(module: str, path: tuple[str, ...]) -> Iterator[Memory]:
        for kind, parameters, name in inside[module]:
            if kind == _RAM:
                values = {n: int(v) for n, v in re.findall(r"\.(\w+)\(\s*(?:32'd)?(\d+)\)", parameters)}
                yield Memory(".".join((*path, name)), values["WIDTH"], values["DEPTH"])
            else:
                yield from below(kind, (*path, name))

    return [memory for top in bodies.keys() - used for memory in below(top, ())]


def export(
    design: Design, out: Path, tools: tuple[str, ...], *, period: float, utilization: int, platform: str, part: str
) -> list[Path]:
    """Write sources, constraints and the tools' files into `out`; returns the paths.

    `period` in ns; `utilization` of the core in percent; `platform` of OpenROAD-flow-scripts; `part` for Vivado.
    """
    for tool in tools:
        if tool not in TOOLS:
            raise InputError(f"tool: {tool!r}, expected one of {', '.join(TOOLS)}")
    if not 1e-3 <= period <= 1e6:
        raise InputError(f"period: {period}, expected nanoseconds from 0.001 to 1000000")
    if not 1 <= utilization <= 99:
        raise InputError(f"utilization: {utilization}, expected 1 to 99 percent")
    for what, value in (("platform", platform), ("part", part)):
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
            raise InputError(f"{what}: {value!r}, expected letters, digits, dots and dashes")
    limits = constraints(design, period)
    name = design.name
    used = memories(design.verilog)
    files = {f"src/{file}": text for file, text in design.sources.items()} | {f"{name}.sdc": limits.sdc()}
    sources = [path for path in files if path.startswith("src/")]
    if "librelane" in tools:
        files["librelane/config.json"] = _librelane(name, limits.clock, sources, period, utilization)
    if "openroad" in tools:
        files["openroad/config.mk"] = _openroad(name, platform, sources, utilization)
    if "vivado" in tools:
        files |= {f"vivado/{name}.xdc": limits.xdc(), "vivado/build.tcl": _vivado(name, part, sources)}
        if isinstance(design.config, EngineConfig):
            files["vivado/package.tcl"] = _vivado_ip(name, part, sources)
    files["README.md"] = _readme(name, tools, used, period, engine=isinstance(design.config, EngineConfig))
    write_files({out / path: content.encode() for path, content in files.items()})
    return [out / path for path in files]


def _librelane(name: str, clock: str | None, sources: list[str], period: float, utilization: int) -> str:
    settings = {
        "meta": {"version": 2, "flow": "Classic"},
        "DESIGN_NAME": name,
        "VERILOG_FILES": [f"dir::../{path}" for path in sources],
        "CLOCK_PORT": clock,
        "CLOCK_PERIOD": period,
        "PNR_SDC_FILE": f"dir::../{name}.sdc",
        "SIGNOFF_SDC_FILE": f"dir::../{name}.sdc",
        "FP_CORE_UTIL": utilization,
    }
    return json.dumps(settings, indent=2) + "\n"


def _openroad(name: str, platform: str, sources: list[str], utilization: int) -> str:
    files = " ".join(f"$(FGMP_DIR)/{path}" for path in sources)
    return f"""\
FGMP_DIR := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/..)
export PLATFORM = {platform}
export DESIGN_NAME = {name}
export VERILOG_FILES = {files}
export SDC_FILE = $(FGMP_DIR)/{name}.sdc
export CORE_UTILIZATION = {utilization}
"""


def _vivado(name: str, part: str, sources: list[str]) -> str:
    reads = "\n".join(f"read_verilog [file join $root {path}]" for path in sources)
    return f"""\
# vivado -mode batch -source build.tcl: place and route {name} out of context, reports beside this file.
set here [file normalize [file dirname [info script]]]
set root [file dirname $here]
{reads}
read_xdc [file join $here {name}.xdc]
synth_design -top {name} -part {part} -mode out_of_context
opt_design
place_design
phys_opt_design
route_design
report_utilization -file [file join $here utilization.txt]
report_timing_summary -file [file join $here timing.txt]
write_checkpoint -force [file join $here {name}.dcp]
"""


def _vivado_ip(name: str, part: str, sources: list[str]) -> str:
    """The packager finds the AXI buses by their ports' names, and the clock's by the attribute in the Verilog."""
    reads = "\n".join(f"add_files -norecurse [file join $root {path}]" for path in sources)
    return f"""\
# vivado -mode batch -source package.tcl: {name} for the IP catalog, in the folder ip beside this file.
set here [file normalize [file dirname [info script]]]
set root [file dirname $here]
create_project -in_memory -part {part}
{reads}
set_property top {name} [current_fileset]
update_compile_order -fileset sources_1
ipx::package_project -root_dir [file join $here ip] -vendor fgmp -library fgmp -taxonomy /UserIP -import_files -force
set core [ipx::current_core]
set_property name {name} $core
set_property version {".".join(__version__.split(".")[:2])} $core
set_property display_name "FGMP matrix engine ({name})" $core
set_property description "Matrix products of NVFP4 and FP8 blocks" $core
ipx::infer_bus_interface irq xilinx.com:signal:interrupt_rtl:1.0 $core
ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
"""


def _readme(name: str, tools: tuple[str, ...], used: list[Memory], period: float, *, engine: bool) -> str:
    commands = {
        "librelane": "librelane librelane/config.json",
        "openroad": "make -C $ORFS/flow DESIGN_CONFIG=$PWD/openroad/config.mk    # ORFS: OpenROAD-flow-scripts",
        "vivado": "cd vivado && vivado -mode batch -source build.tcl",
    }
    lines = [f"# {name}", "", f"Clock period {period:g} ns, in `{name}.sdc`. Run one of:", "", "```"]
    lines += [commands[tool] for tool in tools]
    if "vivado" in tools and engine:
        lines += ["cd vivado && vivado -mode batch -source package.tcl    # an IP for the catalog"]
    lines += ["```", ""]
    if used:
        bits = sum(m.width * m.depth for m in used)
        lines += [
            f"`src/{_RAM}.v` describes all memories, {bits:,} bits together. FPGA tools infer block RAM from it; for a",
            "chip replace it by macros of the same ports (as registers, only the smallest engines fit anywhere).",
            "",
            "| memory | width | depth |",
            "|---|---|---|",
            *(f"| {m.instance} | {m.width} | {m.depth} |" for m in used),
            "",
        ]
    return "\n".join(lines)

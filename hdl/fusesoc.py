"""FuseSoC core descriptions (CAPI2) of generated units."""

from .engine.memory import RAM_MODULE

__all__ = ["ram_core", "unit_core"]


def unit_core(name: str, version: str, *, engine: bool) -> str:
    """The core of the unit `name`, whose Verilog lies beside it; an engine's memory wrapper is a core of its own."""
    depend = f'\n    depend: ["fgmp::{RAM_MODULE}"]' if engine else ""
    software = f"""\

  software:
    files: [{name}_registers.h: {{is_include_file: true}}]
    file_type: cSource"""
    header = f"\n  software:\n    filesets: [software]\n    toplevel: {name}"
    return f"""\
CAPI=2:
name: fgmp::{name}:{version}
description: {"FGMP engine, linear layers on mixed NVFP4 and FP8 blocks" if engine else "A unit of FGMP"}

filesets:
  rtl:
    files: [{name}.v]
    file_type: verilogSource{depend}{software if engine else ""}

targets:
  default: &default
    filesets: [rtl]
    toplevel: {name}{header if engine else ""}
  lint:
    <<: *default
    default_tool: verilator
    tools:
      verilator:
        mode: lint-only
        verilator_options: [-Wall]
"""


def ram_core(version: str) -> str:
    """The core of the memory wrapper, of which a design has one, however many engines it has."""
    return f"""\
CAPI=2:
name: fgmp::{RAM_MODULE}:{version}
description: The memory wrapper of FGMP engines; replace it by your technology's memories

filesets:
  rtl:
    files: [{RAM_MODULE}.v]
    file_type: verilogSource

targets:
  default:
    filesets: [rtl]
    toplevel: {RAM_MODULE}
"""

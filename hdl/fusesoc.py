"""FuseSoC core descriptions (CAPI2) of generated units."""

from collections.abc import Sequence

from .wrappers import CLOCK_GATE_MODULE, RAM_MODULE

__all__ = ["unit_core", "wrapper_core"]

_PURPOSES = {RAM_MODULE: "memory", CLOCK_GATE_MODULE: "clock gate"}


def unit_core(name: str, version: str, wrappers: Sequence[str], *, engine: bool) -> str:
    """The core of the unit `name`, whose Verilog lies beside it; the wrappers that it uses are cores of their own."""
    needed = ", ".join(f'"fgmp::{wrapper}"' for wrapper in wrappers)
    depend = f"\n    depend: [{needed}]" if wrappers else ""
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


def wrapper_core(name: str, version: str) -> str:
    """The core of a wrapper, of which a design has one, however many units use it."""
    purpose = _PURPOSES[name]
    return f"""\
CAPI=2:
name: fgmp::{name}:{version}
description: The {purpose} wrapper of FGMP's units; replace it by your technology's

filesets:
  rtl:
    files: [{name}.v]
    file_type: verilogSource

targets:
  default:
    filesets: [rtl]
    toplevel: {name}
"""

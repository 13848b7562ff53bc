"""What a simulated netlist did, as SAIF, with netlist and constraints: for power tools of others."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...files import write_files
from ..export.constraints import constraints
from .flow import Implementation
from .mapping import Target
from .netlist import CONSTANT_1, Netlist
from .netlist_verilog import instance_name, netlist_verilog
from .power import PowerMeter

__all__ = ["activity_file", "saif", "write_activities"]

_PS = 1000


def saif(netlist: Netlist, name: str, meter: PowerMeter, period: float) -> str:
    """SAIF 2.0 of a metered simulation: all streams one after the other, at a clock of `period` ns.

    As a simulator of the cells' models would write it: nets of the module, by their names in `netlist_verilog`, and
    pins of every cell. Clocks toggle twice a cycle at the root, and behind a gate in the cycles in which it is open.
    """
    cycle = round(period * _PS)
    duration = cycle * meter.cycles
    toggles, high = meter.activity()
    for net, pulses in meter.clock_pulses().items():
        toggles[net], high[net] = 2 * pulses, pulses / 2
    toggles[: CONSTANT_1 + 1] = 0
    high[: CONSTANT_1 + 1] = np.arange(CONSTANT_1 + 1)
    counts = np.rint(toggles * meter.cycles).astype(np.int64)
    ones = np.rint(high * duration).astype(np.int64)

    def line(signal: str, net: int) -> str:
        return f"({signal} (T0 {duration - ones[net]}) (T1 {ones[net]}) (TX 0) (TC {counts[net]}) (IG 0))"

    def ports() -> Iterator[str]:
        for port in (*netlist.inputs, *netlist.outputs):
            nets = netlist.ports[port]
            for i, net in enumerate(nets):
                yield line(f"{port}\\[{i}\\]" if len(nets) > 1 else port, net)

    used = sorted({n for i in netlist.instances for n in i.nets.values() if n > CONSTANT_1})
    lines = [
        "(SAIFILE",
        '(SAIFVERSION "2.0")',
        '(DIRECTION "backward")',
        '(PROGRAM_NAME "fgmp")',
        "(DIVIDER / )",
        "(TIMESCALE 1 ps)",
        f"(DURATION {duration})",
        f"(INSTANCE {name}",
        "(NET",
        *ports(),
        *(line(f"n{net}", net) for net in used),
        ")",
    ]
    for instance in netlist.instances:
        pins = [line(pin, net) for pin, net in instance.nets.items()]
        lines += [f"(INSTANCE {instance_name(instance)} (NET", *pins, "))"]
    return "\n".join([*lines, ")", ")", ""])


def activity_file(activity: str) -> str:
    """The name of an activity's file."""
    words = "".join(c if c.isalnum() else " " for c in activity).split()
    return f"{'-'.join(words)}.saif"


def write_activities(out: Path, unit: Implementation, meters: Mapping[str, PowerMeter]) -> list[Path]:
    """Write netlist, constraints, each activity and a script for OpenSTA that reads them; returns the paths.

    The clock is the unit's own. Raises InputError for a unit with memories, whose netlist has black boxes.
    """
    name, netlist = unit.design.name, unit.netlist
    if netlist.black_kinds or unit.timing is None:
        raise InputError(f"activities: {name} has memories or cells without delays, expected a part of the engine")
    period = unit.timing.period
    sdc = constraints(unit.design, period)
    files = {f"{name}.v": netlist_verilog(netlist, name), f"{name}.sdc": sdc.sdc()}
    files |= {activity_file(activity): saif(netlist, name, meter, period) for activity, meter in meters.items()}
    files["power.tcl"] = _script(name, unit.target, list(meters))
    paths = {out / file: text.encode() for file, text in files.items()}
    write_files(paths)
    return list(paths)


def _script(name: str, target: Target, activities: Sequence[str]) -> str:
    wires = [] if target.wire_load is None else [f"set_wire_load_model -name {target.wire_load.name}"]
    lines = [
        f"# Power of {name} in OpenSTA, activity by activity: LIBERTY=FILE sta -no_init -no_splash -exit power.tcl",
        "read_liberty $::env(LIBERTY)",
        f"read_verilog {name}.v",
        f"link_design {name}",
        "set_cmd_units -time ns",  # which is not that of every library
        f"read_sdc {name}.sdc",
        "set_input_transition 0 [all_inputs]",
        *wires,
    ]
    for activity in activities:
        lines += [f'puts "\\n{activity}"', f"read_saif -scope {name} {activity_file(activity)}", "report_power"]
    return "\n".join([*lines, ""])

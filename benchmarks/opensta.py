"""Area, timing and energy of a unit by our estimator and by OpenSTA, given the same netlist and the same activity.

`python benchmarks/opensta.py --liberty FILE --sta BINARY UNIT ...` prints both. `--record DIR` keeps what
`make synth-check` compares with: the mapped netlist, the part of the library that it uses, and OpenSTA's numbers.
"""

import argparse
import gzip
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from fgmp.hdl.design import build_preset
from fgmp.sim.parts.stimuli import stimuli
from fgmp.synth.asic.flow import implement, simulate
from fgmp.synth.asic.mapping import Target
from fgmp.synth.asic.netlist_verilog import netlist_verilog
from fgmp.synth.asic.saif import saif
from fgmp.synth.liberty.find import read_liberty

PERIOD = 10.0
WORDS = 4


def script(name, wire_load):
    wires = f"set_wire_load_model -name {wire_load.name}" if wire_load else ""
    return f"""\
read_liberty library.lib
read_verilog netlist.v
link_design {name}
create_clock -name clk -period {PERIOD} [get_ports clk]
set_input_delay -clock clk 0 [all_inputs -no_clocks]
set_output_delay -clock clk 0 [all_outputs]
set_input_transition 0 [all_inputs]
{wires}
read_saif -scope {name} activity.saif
puts "path [get_property [lindex [find_timing_paths -path_delay max] 0] slack]"
lassign [sta::design_power [sta::cmd_scene]] internal switching leakage total
puts "power $internal $switching $leakage $total"
"""


def slim(module):
    """The parts of a module from which a netlist can be read again."""
    cells = {name: {"type": cell["type"], "connections": cell["connections"]} for name, cell in module["cells"].items()}
    return {"ports": module["ports"], "cells": cells, "netnames": {}}


def compare(name, library, sta, record):
    target = Target(library.cells, library.cells.wire_load)
    unit = implement(build_preset(name), target)
    activity_name, stimulus = next(iter(stimuli(unit.design, WORDS).items()))
    meter = simulate(unit, stimulus, name)[""]
    energy = meter.energy()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "library.lib").write_text(library.cells.without(frozenset()))
        (work / "netlist.v").write_text(netlist_verilog(unit.netlist, unit.design.name))
        (work / "activity.saif").write_text(saif(unit.netlist, unit.design.name, meter, PERIOD))
        (work / "script.tcl").write_text(script(unit.design.name, target.wire_load))
        command = [str(sta), "-no_init", "-no_splash", "-exit", "script.tcl"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr)
    found = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith(("path", "power"))
    }
    slack = float(found["path"][0])
    internal, switching, leakage, total = (float(x) * 1e12 * PERIOD * 1e-9 for x in found["power"])  # W to pJ a cycle
    theirs = {"period_ns": PERIOD - slack, "internal": internal, "switching": switching, "leakage": leakage,
              "total": total}  # fmt: skip
    # What drives inputs and the clock stands outside; OpenSTA counts it with whoever that is.
    netlist = unit.netlist
    clock_root = 0.0 if netlist.clock is None else unit.timing.load[netlist.clock, 0] * target.cells.voltage**2
    ours = {
        "period_ns": unit.timing.period,
        "internal": energy.internal + energy.clock_pins,
        "switching": energy.switching + energy.clock_net - clock_root,
        "leakage": energy.leakage_nw * PERIOD * 1e-6,
        "total": energy.total(PERIOD) - energy.inputs - clock_root,
    }
    for key, value in theirs.items():
        print(f"{name:16} {key:10} {ours[key]:12.6f} {value:12.6f} {ours[key] / value - 1:+8.2%}")
    if record:
        used = {i.cell.name for i in unit.netlist.instances}
        part = library.cells.without(frozenset(library.cells.cell_names) - used)
        record.mkdir(parents=True, exist_ok=True)
        for file, content in (("library.lib.gz", part), ("netlist.json.gz", json.dumps(slim(unit.mapped.netlist)))):
            (record / f"{name}.{file}").write_bytes(gzip.compress(content.encode(), mtime=0))
        facts = {
            "unit": name, "library": library.cells.name, "library_sha256": library.sha256, "activity": activity_name,
            "words": WORDS, "buffered_cells": len(unit.netlist.instances), "period_ns": PERIOD,
            "toggles": float(np.sum(meter.activity()[0])), "opensta": theirs,
        }  # fmt: skip
        (record / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("units", nargs="+", metavar="UNIT")
    parser.add_argument("--liberty", type=Path, required=True)
    parser.add_argument("--sta", type=Path, required=True, help="OpenSTA's binary")
    parser.add_argument("--record", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    library = read_liberty(arguments.liberty)
    print(f"{'unit':16} {'':10} {'ours':>12} {'OpenSTA':>12}   difference")
    for name in arguments.units:
        compare(name, library, arguments.sta.resolve(), arguments.record)


if __name__ == "__main__":
    main()

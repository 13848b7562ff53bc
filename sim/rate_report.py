"""The output of `fgmp rate`."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["rate_lines"]


def rate_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What was asked, the linears by size, and a line for each number of tokens and format."""
    engine = result["engine"]
    memory = "" if result["memory_gb_s"] is None else f", memory at {result['memory_gb_s']:g} GB/s at most"
    yield (
        f"{engine['lanes']} lanes, {engine['rows']} rows, weight streams: {engine['weight_streams']}; "
        f"{result['clock_mhz']:g} MHz{memory}"
    )
    yield f"{result['linears']} linears, {result['weights']:,} weights"
    for shape in result["shapes"]:
        chosen = f", {shape['chosen']} of {shape['experts']} experts a token" if shape["experts"] > 1 else ""
        yield f"{shape['count']:6} x  N {shape['outputs']:6}  K {shape['inputs']:6}{chosen}"
    yield ""
    energy = any("joules_per_token" in row["fgmp"] for row in result["rows"])
    yield ("tokens  blocks      cycles/token  tokens/s  bytes/token  weights GB/s" + ("   J/token" if energy else ""))
    for row in result["rows"]:
        for name, kind in (("fgmp", f"{result['fp4']:.0%} FP4"), ("fp8", "all FP8")):
            values = row[name]
            joules = f"  {values['joules_per_token']:8,.4g}" if energy else ""
            rate = _short(values["tokens_per_second"])
            yield (
                f"{row['tokens']:6}  {kind:8}  {values['cycles_per_token']:14,.0f}  {rate:>8}"
                f"  {values['bytes_per_token']:11,.0f}  {values['weight_gb_s']:12.2f}{joules}"
            )
        saved = f", {row['energy_saved']:.1%} less energy" if energy else ""
        yield f"        {row['speedup']:.2f} times as fast as all FP8{saved}"


def _short(value: float) -> str:
    """Four digits, or as many as a large number has."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

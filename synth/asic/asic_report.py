"""The output of `fgmp synth asic`."""

from typing import Any

__all__ = ["asic_table"]


def asic_table(result: dict[str, Any]) -> str:
    """One unit's results as text."""
    area, timing, energy = result["area"], result["timing"], result["energy"]
    settings = ", ".join(f"{k}={v}" for k, v in result["parameters"].items())
    lines = [f"{result['unit']} ({settings})", f"in {result['library']['name']}", ""]
    lines.append(
        f"area        {area['total_um2']:,.0f} um^2, {area['cells']:,} cells, {area['sequential_share']:.0%} in "
        f"{area['flip_flops']:,} flip-flops"
    )
    for part in area["by_hierarchy"]:
        share = part["area_um2"] / area["total_um2"] if area["total_um2"] else 0.0
        lines.append(f"  {'  ' * part['depth'] + part['part']:44} {part['area_um2']:10,.0f} {share:4.0%}")
    if area["memories"]:
        bits = sum(m["bits"] for m in area["memories"])
        lines.append(f"  memories, not included: {len(area['memories'])} with {bits:,} bits")
    if timing and timing["clock_mhz"]:
        lines.append(
            f"clock       {timing['clock_mhz']:,.1f} MHz, {timing['period_ns']:.3f} ns, {len(timing['path'])} cells"
        )
        for kind, longest in timing["longest_ns"].items():
            lines.append(f"  {kind:24} {longest:8.3f} ns")
        lines.append(
            f"  {'arrival ns':>10} {'delay':>7}       {'load pF':>8}  longest path: cell and the net it drives"
        )
        for p in timing["path"]:
            place = f"{p['cell'] or 'input'} {p['net']}"
            lines.append(f"  {p['arrival']:10.3f} {p['delay']:7.3f}  {p['edge']}  {p['load']:8.4f}  {place}")
    if energy:
        lines.append(f"energy      {'activity':28} {'pJ/cycle':>9} {'clock':>8} {'internal':>9} {'switching':>10}")
        for item in energy:
            parts = item["parts_pj"]
            clock = parts["clock_pins"] + parts["clock_net"]
            lines.append(
                f"            {item['activity']:28} {item['pj_per_cycle']:9.2f} {clock:8.2f} {parts['internal']:9.2f} "
                f"{parts['switching']:10.2f}"
            )
    lines += [""] + [f"note: {caveat}" for caveat in result["caveats"]]
    return "\n".join(lines)

"""Hardware against the golden model: `fgmp simulate`, campaigns, models on the engine, mutants, proofs, rates."""

from collections.abc import Mapping
from typing import Any

from ..elements import Section, Table
from ..picture import draw

__all__ = ["SECTIONS"]


def regression_section(result: Mapping[str, Any]) -> Section:
    """`fgmp simulate`: campaigns of units and engines."""
    facts = [
        ("results compared", f"{result['compared']:,}"),
        ("differences", f"{result['differences']:,}"),
        ("units", ", ".join(result["presets"])),
    ]
    parts: list[Any] = []
    for preset, summary in result["presets"].items():
        rows = [
            [c["name"], f"{c['compared']:,}", f"{c['differences']:,}", f"{c['cycles']:,}", c["first"] or ""]
            for c in summary["campaigns"]
        ]
        head = ["campaign", "compared", "different", "cycles", "first difference"]
        parts.append(Table(head, rows, preset))
        if summary.get("performance"):
            parts.append(_performance(summary["performance"]))
    return Section("Regression", "", facts, parts, result["differences"] == 0)


def _performance(rows: list[Mapping[str, Any]]) -> Table:
    waits = ("weights", "activations", "results", "sums")
    head = ["FP4", "utilization", "first to last pair", "cycles", *(f"waits for {name}" for name in waits)]
    cells = [
        [
            f"{row['fp4_fraction']:.0%}", f"{row['utilization']:.2%}", f"{row['inner_utilization']:.2%}",
            f"{row['cycles']:,}", *(f"{row[f'stall_{name}']:,}" for name in waits),
        ]
        for row in rows
    ]  # fmt: skip
    return Table(head, cells, "M = 64, N = 256, K = 1024, packed in, float32 out, no stalls from outside")


def model_section(result: Mapping[str, Any]) -> Section:
    """`fgmp simulate --model`: a language model on the simulated engine."""
    facts = [
        ("results compared", f"{result['compared']:,}"),
        ("differences", f"{result['differences']:,}"),
        ("perplexity from the RTL", f"{result['perplexity']:.6f} of {result['tokens']} tokens"),
        ("perplexity, golden", f"{result['golden_perplexity']:.6f}"),
        ("cycles", f"{result['cycles']:,}"),
    ]
    if result["generated"]:
        facts.append(("generated", repr(result["generated"])))
    expected = result["expected"] or {}
    pairs = [
        [mode, f"{share:.1%}", f"{expected[mode]:.1%}" if mode in expected else ""]
        for mode, share in result["precision_modes"].items()
    ]
    phases = [
        [
            phase["name"], f"{phase['tokens']:,}", f"{phase['cycles_per_token']:,.0f}",
            f"{phase['fp8_cycles_per_token']:,.0f}", f"{phase['tokens_per_second']:,.0f}",
            f"{phase['fp8_tokens_per_second']:,.0f}", f"{phase['bytes_per_token']:,.0f}", f"{phase['speedup']:.2f}",
        ]
        for phase in result["phases"]
    ]  # fmt: skip
    layers = [
        [
            la["name"], " x ".join(map(str, la["shape"])), f"{la['rows']:,}", f"{la['cycles']:,}",
            f"{la['utilization']:.1%}", *(f"{share:.1%}" for share in la["precision_modes"].values()),
            f"{la['compared']:,}", f"{la['differences']:,}",
        ]
        for la in result["layers"]
    ]  # fmt: skip
    parts = [
        Table(["activation x weight", "measured", "expected"], pairs, "Block pairs"),
        Table(
            ["pass", "tokens", "cycles/token", "all FP8", "tokens/s", "all FP8", "bytes/token", "times as fast"],
            phases,
            f"{result['clock']:g} MHz, streams at 16 bytes a cycle, linears only",
        ),
        Table(
            ["linear", "N x K", "rows", "cycles", "utilization", *result["precision_modes"], "compared", "different"],
            layers,
            "Linears",
        ),
    ]
    return Section("Model on the simulated engine", "", facts, parts, result["differences"] == 0)


def campaign_section(result: Mapping[str, Any]) -> Section:
    """`fgmp simulate --campaign`: units with random parameters."""
    facts = [
        ("units", f"{result['units']:,}"),
        ("results compared", f"{result['compared']:,}"),
        ("failures", f"{len(result['failures'])}"),
    ]
    rows = [[str(value) for value in failure.values()] for failure in result["failures"]]
    parts = [Table(list(result["failures"][0]), rows, "Failures", left=9)] if rows else []
    return Section("Campaign over random parameters", "", facts, parts, not result["failures"])


def mutants_section(result: Mapping[str, Any]) -> Section:
    """`fgmp mutants`: faults planted in one unit."""
    facts = [
        ("mutants", f"{result['mutants']:,}"),
        ("noticed", f"{result['killed']:,}"),
        ("proven equivalent", f"{result['equivalent']:,}"),
        ("survived", f"{len(result['survived']):,}"),
        ("score", f"{result['score']:.1%}"),
    ]
    reasons = result.get("reasons", {})
    rows = [[str(line), str(reasons.get(line, ""))] for line in result["survived"]]
    parts = [Table(["mutation", "why no test is missing"], rows, "Survivors", left=2)] if rows else []
    title = f"Mutants of {result['unit']}, in its {result.get('place', 'netlist')}"
    return Section(title, "", facts, parts, len(rows) == len(reasons))


def coverage_section(result: Mapping[str, Any]) -> Section:
    """`fgmp coverage`: bins, lines, branches and toggles of one unit."""
    bins = result["functional"]
    facts = [
        ("results compared", f"{result['compared']:,}"),
        ("differences", f"{result['differences']:,}"),
        ("bins", f"{bins['covered']:,} of {bins['total']:,}"),
    ]
    facts += [
        (kind, f"{part['covered']:,} of {part['total']:,}, {part['covered'] / part['total']:.1%}")
        for kind, part in result["structure"].items()
    ]
    parts: list[Any] = [
        Table(["bin", "how often"], [[name, f"{count:,}"] for name, count in counts.items()], group)
        for group, counts in result["bins"].items()
    ]
    waived = [*bins["waived"].items(), *((f"{count:,} points", reason) for reason, count in result["waived"].items())]
    if waived:
        parts.append(Table(["waived", "reason"], [list(row) for row in waived], "Waivers", left=2))
    if result["holes"]:
        rows = [[name, f"{count:,}"] for name, count in list(result["holes"].items())[:60]]
        parts.append(Table(["signal", "points"], rows, f"Never, the first of {len(result['holes']):,} signals"))
    return Section(f"Coverage of {result['unit']}", "", facts, parts, not bins["holes"] and not result["differences"])


def proofs_section(result: Mapping[str, Any]) -> Section:
    """`fgmp prove`."""
    outcomes = result["properties"]
    rows = [
        [
            o["name"], f"{o['cases']:,}", f"{len(o['failed']):,}", f"{len(o['open']):,}", f"{o['seconds']:.1f}",
            o["fault"] or "not seen",
        ]
        for o in outcomes
    ]  # fmt: skip
    head = ["property", "cases", "false", "open", "seconds", "its planted fault shows in"]
    facts = [("proven", f"{result['proven']} of {len(outcomes)}")]
    return Section("Proofs", "", facts, [Table(head, rows)], result["proven"] == len(outcomes))


def rate_section(result: Mapping[str, Any]) -> Section:
    """`fgmp rate`: cycles and tokens per second, predicted."""
    engine, rows = result["engine"], result["rows"]
    memory = result["memory_gb_s"]
    facts = [
        ("engine", ", ".join(f"{name} {value}" for name, value in engine.items())),
        ("clock", f"{result['clock_mhz']:g} MHz"),
        ("memory", "as much as the engine takes" if memory is None else f"{memory:g} GB/s"),
        ("linears", f"{result['linears']:,}"),
        ("weights", f"{result['weights']:,}"),
    ]
    joules = "joules_per_token" in rows[0]["fgmp"]
    head = ["tokens", "blocks", "cycles/token", "tokens/s", "bytes/token", "weights GB/s"]
    kinds = (("fgmp", f"{result['fp4']:.0%} FP4"), ("fp8", "all FP8"))
    cells = [
        [
            f"{row['tokens']:,}", name, f"{row[kind]['cycles_per_token']:,.0f}",
            f"{row[kind]['tokens_per_second']:,.4g}", f"{row[kind]['bytes_per_token']:,.0f}",
            f"{row[kind]['weight_gb_s']:.2f}", *([f"{row[kind]['joules_per_token']:.4g}"] if joules else []),
        ]
        for row in rows
        for kind, name in kinds
    ]  # fmt: skip

    def onto(axes: Any) -> None:
        for kind, name in kinds:
            points = sorted((row["tokens"], row[kind]["tokens_per_second"]) for row in rows)
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("tokens at once (1: decoding)")
        axes.set_ylabel("tokens per second")
        axes.legend(fontsize="small")

    picture = draw("Tokens per second", onto, size=(8, 3.5))
    table = Table([*head, *(["J/token"] if joules else [])], cells, "Linears only", left=0)
    return Section("Rate", "", facts, [table, picture])


SECTIONS = {
    "fgmp-simulate/1": regression_section,
    "fgmp-simulate-model/1": model_section,
    "fgmp-campaign/1": campaign_section,
    "fgmp-mutants/1": mutants_section,
    "fgmp-coverage/1": coverage_section,
    "fgmp-prove/1": proofs_section,
    "fgmp-rate/1": rate_section,
}

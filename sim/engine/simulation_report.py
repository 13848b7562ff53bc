"""The output of `fgmp simulate` for engines and for models on them."""

from collections.abc import Iterator
from typing import Any

from .model import ModelRun

__all__ = ["engine_lines", "model_lines"]


def engine_lines(preset: str, summary: dict[str, Any]) -> Iterator[str]:
    """The campaigns and the performance GEMM of one engine."""
    for campaign in summary["campaigns"]:
        yield (
            f"{preset}  {campaign['name']:32} {campaign['compared']:9,} compared"
            f"  {campaign['differences']:6,} different  {campaign['cycles']:11,} cycles"
        )
        if campaign["first"]:
            yield campaign["first"]
    rows = summary["performance"]
    if rows:
        yield ""
        yield "M=64, N=256, K=1024, packed in, float32 out, no stalls from outside"
        yield "  FP4   whole GEMM   first to last pair   cycles   waits: weights  activations  results  sums   cycles/s"
        for row in rows:
            yield (
                f"{row['fp4_fraction']:5.0%}   {row['utilization']:9.2%}   {row['inner_utilization']:18.2%}"
                f"   {row['cycles']:6,}   {row['stall_weights']:14,}  {row['stall_activations']:11,}"
                f"  {row['stall_results']:7,}  {row['stall_sums']:4,}   {row['cycles_per_second']:8,.0f}"
            )
        yield ""


def model_lines(run: ModelRun) -> Iterator[str]:
    """A line for each linear, then the model."""
    width = max(len(layer.name) for layer in run.layers)
    yield (
        f"{'linear':{width}}  {'N x K':>11}   rows     cycles  utilization  weight bytes  "
        "FP4xFP4  FP4xFP8  FP8xFP4  FP8xFP8   compared  different"
    )
    for layer in run.layers:
        values = layer.as_dict()
        shares = "  ".join(f"{share:7.1%}" for share in values["precision_modes"].values())
        yield (
            f"{layer.name:{width}}  {layer.shape[0]:5}x{layer.shape[1]:<5}  {layer.rows:5}  {layer.cycles:9,}"
            f"  {values['utilization']:11.1%}  {layer.weight_bytes:12,}  {shares}"
            f"  {layer.tally.compared:9,}  {layer.tally.differences:9,}"
        )
    totals = run.as_dict()
    yield ""
    yield "pairs of formats are activation x weight; in all:"
    for mode, share in run.precision_modes.items():
        yield f"  {mode} {share:6.1%}" + (f", expected {run.expected[mode]:.1%}" if run.expected else "")
    yield f"perplexity of {run.tokens} tokens: {run.perplexity:.6f} from the RTL, {run.golden_perplexity:.6f} golden"
    yield ""
    yield f"{run.clock:g} MHz, streams at 16 bytes a cycle; linears only"
    yield "pass     tokens  blocks      cycles/token  tokens/s  bytes/token  cycles/weight beats"
    for phase in run.phases:
        row = phase.as_dict(run.clock)
        yield (
            f"{phase.name:7}  {phase.tokens:6}  as they are  {row['cycles_per_token']:11,.0f}"
            f"  {row['tokens_per_second']:8,.0f}  {row['bytes_per_token']:11,.0f}"
            f"  {row['cycles_over_weight_beats']:19.3f}"
        )
        yield (
            f"{'':7}  {'':6}  all FP8      {row['fp8_cycles_per_token']:11,.0f}"
            f"  {row['fp8_tokens_per_second']:8,.0f}  {row['fp8_bytes_per_token']:11,.0f}"
        )
        yield f"{'':17}{row['speedup']:.2f} times as fast as all FP8"
    yield ""
    if run.generated:
        yield f"generated: {run.generated!r}" + (
            " (the golden model too)" if run.generated == run.golden_generated else ""
        )
        if run.generated != run.golden_generated:
            yield f"golden:    {run.golden_generated!r}"
    yield (
        f"{run.cycles:,} cycles, the sizes in FP8 included, simulated in {run.seconds:.1f} s, "
        f"{totals['cycles_per_second']:,.0f} a second"
    )
    yield f"results compared {totals['compared']:,}, differences {totals['differences']}"

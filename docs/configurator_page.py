"""Sphinx extension: the constants and tables that the configurator's script needs, taken from the packages."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fgmp.formats import BLOCK_SIZE, accumulator_bits
from fgmp.hdl.config import EngineConfig, preset
from fgmp.hdl.engine import rate
from fgmp.hdl.engine.config import STREAM_BYTES, TILE_BLOCKS
from fgmp.quantizer.prices import Prices

SHARES = 20
"""The page knows shares of FP4 in steps of one twentieth."""

MODELS = {
    "Llama 2 7B": [[4096, 4096, 128], [11008, 4096, 64], [4096, 11008, 32]],
    "Llama 3.1 8B": [[4096, 4096, 64], [1024, 4096, 64], [14336, 4096, 64], [4096, 14336, 32]],
    "Qwen2.5 0.5B": [[896, 896, 48], [128, 896, 48], [4864, 896, 48], [896, 4864, 24]],
    "the shipped Llama": [[256, 256, 6], [64, 256, 6], [512, 256, 6], [256, 512, 3]],
}
"""Linears of models by [N, K, how many], from their published config.json."""

_CONSTANTS = {
    "begin": rate._BEGIN, "weights_to_row": rate._WEIGHTS_TO_ROW, "activations_to_row": rate._ACTIVATIONS_TO_ROW,
    "selector": rate._SELECTOR, "followed": rate._FOLLOWED, "to_result": rate._TO_RESULT,
    "from_result": rate._FROM_RESULT, "group": rate._GROUP,
}  # fmt: skip


def data(lane_um2: float, measured: dict[float, float]) -> dict[str, Any]:
    """What `configurator_model.js` calls `data`.

    `lane_um2` is the area of a lane, `measured` the energy by the share of blocks in FP4, FP8-only hardware = 1.
    """
    lanes = {(lanes, streams) for lanes in (4, 8, 16, 32, 64) for streams in (1, 2, 4) if lanes >= 4 * streams}
    engines = {}
    for count, streams in lanes:
        engine = EngineConfig(lanes=count, weight_streams=streams, packed_output=count >= BLOCK_SIZE)
        engines[max(count // (2 * streams) + 1, rate._SHORTEST_STEP)] = engine
    steps = {
        shortest: {
            rows: [rate._step(engine, rows, share / SHARES) for share in range(1, SHARES + 1)]
            for rows in range(1, rate._FEW_ROWS)
        }
        for shortest, engine in engines.items()
    }
    prices = Prices()
    all_fp4 = float(prices.table()[0, 0]) / prices.fp8_only
    energy = [[share, pj * prices.fp8_only] for share, pj in sorted({0.0: 1.0, **measured, 1.0: all_fp4}.items())]
    return {
        "block": BLOCK_SIZE, "tile_blocks": TILE_BLOCKS, "stream_bytes": STREAM_BYTES, "shares": SHARES,
        "shortest_step": rate._SHORTEST_STEP, "few_rows": rate._FEW_ROWS, "constants": _CONSTANTS, "steps": steps,
        "engine": asdict(preset("engine")), "models": MODELS, "energy": energy, "lane_um2": lane_um2,
        "accumulator_bits": {k: accumulator_bits(k) for k in (1024, 4096, 11008, 16384, 32768)},
    }  # fmt: skip


def _write(app: Any) -> None:
    from fgmp.report.claims.catalogue import FRACTIONS
    from fgmp.report.claims.publish import published

    figures = published()
    areas = {row[0].strip("`"): row[1] for row in figures["tables"]["lanes"]}
    points = zip(FRACTIONS, figures["points"]["all refinements"], strict=True)
    measured = {fraction: point[0] for fraction, point in points}
    text = json.dumps(data(float(areas["engine-lane"].replace(",", "")), measured))
    Path(app.outdir, "_static").mkdir(parents=True, exist_ok=True)
    Path(app.outdir, "_static", "configurator_data.js").write_text(f"window.fgmpConfigurator = {text};\n")


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("builder-inited", _write)
    for name in ("configurator_data.js", "configurator_model.js", "configurator.js"):
        app.add_js_file(name, loading_method="defer")
    app.add_css_file("configurator.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Prepares GEMMs for the cocotb bench of the engine and runs it: AXI as others' models speak it, not ours."""

import json
import random
import tempfile
from pathlib import Path

from ...hdl.config import EngineConfig
from ...hdl.design import Design
from ...hdl.wrappers import RAM_MODULE
from ..runner import CACHE, CampaignResult, Simulator
from .driver import check_gemm, cycle_limit
from .gemm import Gemm
from .random_gemms import random_gemm, uniform_gemm
from .wire import operand_streams, result_bytes

__all__ = ["axi_gemms", "axi_simulator", "run_axi_bench", "run_axi_gemms"]

_MODULE = "fgmp.sim.engine.axi_bench"
_PAUSES = (0.0, 0.1, 0.5)


def axi_gemms(config: EngineConfig, count: int, seed: int) -> dict[str, Gemm]:
    """One GEMM whose blocks are all FP4, then random ones of every kind."""
    chance = random.Random(seed)
    gemms = {"only FP4": uniform_gemm(config.rows // 2, config.lanes, 272, 1.0, seed)}
    for index in range(count):
        sizes = chance.randint(1, config.rows + 1), chance.randint(1, 2 * config.lanes + 1), chance.randint(1, 300)
        gemms[f"random {index}"] = random_gemm(sizes, chance, config)
    return gemms


def axi_simulator(design: Design, cache: Path = CACHE) -> Simulator:
    """The engine compiled for the bench, which also looks at what FP4 must leave still."""
    lane = f"{design.name}_core_lane"
    return Simulator(
        design, watched=[(lane, "following"), (lane, "a_significands"), (RAM_MODULE, "read_enable")], cache=cache
    )


def run_axi_bench(design: Design, name: str, *, gemms: int, seed: int, cache: Path = CACHE) -> CampaignResult:
    """Run the bench on random GEMMs with pauses on every stream."""
    config = design.config
    assert isinstance(config, EngineConfig)
    return run_axi_gemms(design, name, axi_gemms(config, gemms, seed), seed=seed, cache=cache)


def run_axi_gemms(
    design: Design, name: str, gemms: dict[str, Gemm], *, seed: int = 1, pauses: bool = True, cache: Path = CACHE
) -> CampaignResult:
    """Run given GEMMs; a GEMM whose name says "only FP4" is also watched for what FP4 must leave still."""
    config = design.config
    assert isinstance(config, EngineConfig)
    chance = random.Random(seed)
    simulator = axi_simulator(design, cache)
    with tempfile.TemporaryDirectory(prefix="fgmp-axi-") as folder:
        work = Path(folder)
        (work / "streams.json").write_text(json.dumps(config.operand_streams))
        for index, (title, gemm) in enumerate(gemms.items()):
            check_gemm(gemm, config)
            path = work / f"{index:04}"
            path.mkdir()
            still = title == "only FP4"
            pause = {
                s: chance.choice(_PAUSES) if pauses and not still else 0.0 for s in (*config.operand_streams, "results")
            }
            settings = {
                "name": title,
                "seed": chance.randrange(1 << 30),
                "pauses": pause,
                "only_fp4": still,
                "limit": cycle_limit(gemm, config),
                "writes": gemm.register_writes(),
            }
            (path / "gemm.json").write_text(json.dumps(settings))
            for stream, data in operand_streams(gemm, config).items():
                (path / f"{stream}.bin").write_bytes(data)
            (path / "results.bin").write_bytes(result_bytes(gemm, config))
        simulator.run_module(_MODULE, work, may_fail=(work / "summary.json").is_file)
        summary = json.loads((work / "summary.json").read_text())
    wrong = [entry["wrong"] for entry in summary if entry["wrong"]]
    missing = len(gemms) - len(summary)
    if missing:
        wrong.append(f"{missing} of {len(gemms)} GEMMs were not run to their end")
    cycles = sum(entry["counters"]["cycles"] for entry in summary)
    compared = sum(gemm.rows * gemm.outputs for gemm in gemms.values())
    return CampaignResult(name, compared, len(wrong), wrong[0] if wrong else None, cycles)

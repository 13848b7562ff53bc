"""Prepares jobs for the cocotb bench of the engine and runs it: AXI as others' models speak it, not ours."""

import json
import random
import tempfile
from pathlib import Path

from ...hdl.config import EngineConfig
from ...hdl.engine.memory import RAM_MODULE
from ...hdl.verilog import Design
from ..runner import CACHE, CampaignResult, Simulator
from .driver import check_job, cycle_limit
from .job import Job
from .jobs import random_job, uniform_job
from .wire import activation_bytes, result_bytes, weight_bytes

__all__ = ["axi_jobs", "axi_simulator", "run_axi_bench", "run_axi_jobs"]

_MODULE = "fgmp.sim.engine.axi_bench"
_PAUSES = (0.0, 0.1, 0.5)


def axi_jobs(config: EngineConfig, count: int, seed: int) -> dict[str, Job]:
    """One job whose blocks are all FP4, then random ones of every kind."""
    chance = random.Random(seed)
    jobs = {"only FP4": uniform_job(config.rows // 2, config.lanes, 272, 1.0, seed)}
    for index in range(count):
        sizes = chance.randint(1, config.rows + 1), chance.randint(1, 2 * config.lanes + 1), chance.randint(1, 300)
        jobs[f"random {index}"] = random_job(sizes, chance, config)
    return jobs


def axi_simulator(design: Design, cache: Path = CACHE) -> Simulator:
    """The engine compiled for the bench, which also looks at what FP4 must leave still."""
    lane = f"{design.name}_core_lane"
    return Simulator(design, watched=[(lane, "held"), (lane, "a"), (RAM_MODULE, "read_enable")], cache=cache)


def run_axi_bench(design: Design, name: str, *, jobs: int, seed: int, cache: Path = CACHE) -> CampaignResult:
    """Run the bench on random jobs with pauses on every stream."""
    config = design.config
    assert isinstance(config, EngineConfig)
    return run_axi_jobs(design, name, axi_jobs(config, jobs, seed), seed=seed, cache=cache)


def run_axi_jobs(
    design: Design, name: str, jobs: dict[str, Job], *, seed: int = 1, pauses: bool = True, cache: Path = CACHE
) -> CampaignResult:
    """Run given jobs; a job whose name says "only FP4" is also watched for what FP4 must leave still."""
    config = design.config
    assert isinstance(config, EngineConfig)
    chance = random.Random(seed)
    simulator = axi_simulator(design, cache)
    with tempfile.TemporaryDirectory(prefix="fgmp-axi-") as folder:
        work = Path(folder)
        for index, (title, job) in enumerate(jobs.items()):
            check_job(job, config)
            path = work / f"{index:04}"
            path.mkdir()
            still = title == "only FP4"
            pause = {
                s: chance.choice(_PAUSES) if pauses and not still else 0.0
                for s in ("weights", "activations", "results")
            }
            settings = {
                "name": title,
                "seed": chance.randrange(1 << 30),
                "pauses": pause,
                "only_fp4": still,
                "limit": cycle_limit(job, config),
                "writes": job.register_writes(),
            }
            (path / "job.json").write_text(json.dumps(settings))
            (path / "weights.bin").write_bytes(weight_bytes(job.weight, config, job.rows))
            (path / "activations.bin").write_bytes(activation_bytes(job, config))
            (path / "results.bin").write_bytes(result_bytes(job, config))
        simulator.run_module(_MODULE, work, may_fail=(work / "summary.json").is_file)
        summary = json.loads((work / "summary.json").read_text())
    wrong = [entry["wrong"] for entry in summary if entry["wrong"]]
    missing = len(jobs) - len(summary)
    if missing:
        wrong.append(f"{missing} of {len(jobs)} jobs were not run to their end")
    cycles = sum(entry["counters"]["cycles"] for entry in summary)
    compared = sum(job.rows * job.outputs for job in jobs.values())
    return CampaignResult(name, compared, len(wrong), wrong[0] if wrong else None, cycles)

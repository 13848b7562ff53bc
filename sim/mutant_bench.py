"""The cocotb bench for mutants: all campaigns on one planted fault after the other, each until something differs.

The folder is that of `bench`, and holds `faults.json`, a list of numbers; `verdicts.json` is written into it.
"""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from fgmp.errors import first_line
from fgmp.hdl.design import Port
from fgmp.sim.bench import run_campaign
from fgmp.sim.campaign import read_campaign

__all__: list[str] = []

_SURVIVED = "survived"


@cocotb.test()
async def mutants(dut: Any) -> None:
    """All faults of the list; what noticed each, or that it survived."""
    run = Path(os.environ["FGMP_RUN"])
    ports = {p["name"]: Port(**p) for p in json.loads((run / "ports.json").read_text())}
    campaigns = [read_campaign(folder) for folder in sorted(p for p in run.iterdir() if p.is_dir())]
    verdicts: dict[str, str] = {}
    for fault in json.loads((run / "faults.json").read_text()):
        verdict = _SURVIVED
        for campaign in campaigns:
            try:
                board, _ = await run_campaign(dut, campaign, ports, fault)
            except Exception as error:  # whatever a bench says of a unit that breaks the handshake
                verdict = f"{campaign.name}: {first_line(error)}"
            else:
                verdict = campaign.name if board.differences else _SURVIVED
            if verdict != _SURVIVED:
                break
        verdicts[str(fault)] = verdict
        (run / "verdicts.json").write_text(json.dumps(verdicts))

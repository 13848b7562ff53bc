"""One point of a sweep: run its flow and keep the figures that are compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...hdl.design import build_preset
from ..asic.flow import characterize
from ..energy.run import run_energy
from ..fpga.flow import characterize_fpga
from ..fpga.nextpnr import device
from ..liberty.find import LibertyFile
from .spec import DesignPoint, SweepSpec

__all__ = ["BETTER_HIGH", "Runner"]

BETTER_HIGH = {"clock_mhz", "saving", "saving_of_lane", "saving_without_buffers", "weight_saving"}
"""Metrics of which more is better; of all others less is."""

_LUTS = ("TRELLIS_COMB", "ICESTORM_LC")


@dataclass(frozen=True)
class Runner:
    """Runs points; travels to other processes and machines whole, library included."""

    spec: SweepSpec
    library: LibertyFile | None
    cache: Path

    def __call__(self, point: DesignPoint) -> list[dict[str, Any]]:
        """Rows of metrics: one, or for the flow "energy" one per format."""
        return getattr(self, f"_{self.spec.flow}")(point)

    def _asic(self, point: DesignPoint) -> list[dict[str, Any]]:
        library, options = self.library, self.spec.options
        assert library is not None
        result = characterize(
            build_preset(point.unit, point.arguments),
            library,
            self.spec.target(library.cells),
            words=options["words"],
            seed=options["seed"],
            cache=self.cache,
            energy=options["energy"],
        )
        row: dict[str, Any] = {"area_um2": result["area"]["total_um2"]}
        if result["timing"]:
            row["clock_mhz"] = result["timing"]["clock_mhz"]
        energies = {e["activity"]: e["pj_per_cycle"] for e in result["energy"] or []}
        if energies:
            # The last activity is the mix, where there is one.
            row |= {"pj": list(energies.values())[-1], **{f"pj {name}": pj for name, pj in energies.items()}}
        return [row]

    def _fpga(self, point: DesignPoint) -> list[dict[str, Any]]:
        o = self.spec.options
        where = device(o["target"], o["device"] or None, o["package"] or None)
        design = build_preset(point.unit, point.arguments)
        result = characterize_fpga(design, where, seeds=o["seeds"], mhz=o["mhz"], dsp=o["dsp"], cache=self.cache)
        used = {kind: count["used"] for kind, count in result["utilization"].items()}
        luts = sum(used.get(kind, 0) for kind in _LUTS)
        return [{"luts": luts, "clock_mhz": result["clock_mhz"]["median"], **used}]

    def _energy(self, point: DesignPoint) -> list[dict[str, Any]]:
        library = self.library
        assert library is not None
        request = self.spec.energy_request(point, self.cache)
        result = run_energy(request, library, self.spec.target(library.cells), progress=False)
        keys = ("pj", "saving", "saving_without_buffers", "saving_of_lane", "weight_saving", "bits_per_weight")
        return [
            {
                "format": row["name"],
                **{key: row[key] for key in keys},
                "lane_pj": row["parts_pj"]["lane"],
                "quality": row["quality"]["value"],
                "clock_mhz": result["clock_mhz"],
            }
            for row in result["rows"]
        ]

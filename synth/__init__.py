"""fgmp.synth: what the units become in silicon: area, clock rate and energy, on FPGAs and in standard cells.

What is listed here is stable: a change of it stands in CHANGELOG.md. Nothing is imported until it is asked for.
"""

from ..faces import lazy

__all__ = [
    "Device",
    "EnergyRequest",
    "Runner",
    "SweepSpec",
    "Target",
    "Texts",
    "characterize",
    "characterize_fpga",
    "combinational_paths",
    "device",
    "implement",
    "measure_energy",
    "read_liberty",
    "read_spec",
    "run_energy",
    "run_sweep",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Device": "fpga.nextpnr",
        "EnergyRequest": "energy.run",
        "Runner": "sweep.runner",
        "SweepSpec": "sweep.spec",
        "Target": "asic.mapping",
        "Texts": "energy.workload",
        "characterize": "asic.flow",
        "characterize_fpga": "fpga.flow",
        "combinational_paths": "paths",
        "device": "fpga.nextpnr",
        "implement": "asic.flow",
        "measure_energy": "asic.flow",
        "read_liberty": "liberty.find",
        "read_spec": "sweep.spec",
        "run_energy": "energy.run",
        "run_sweep": "sweep.run",
    },
)

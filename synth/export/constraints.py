"""The constraints that a unit needs: its clock, when inputs come and outputs are due, and which paths do not count."""

from dataclasses import dataclass

from ...hdl.config import Config, EngineConfig, LaneConfig, SelectorConfig
from ...hdl.design import Design

__all__ = ["Constraints", "constraints"]

# Ports that hold still while data is inside (docs/hardware.md): paths from them never decide the clock rate.
_STEADY: dict[type, tuple[str, ...]] = {
    LaneConfig: ("exponent",),
    SelectorConfig: ("tensor_exponent", "threshold", "mode"),
}


@dataclass(frozen=True)
class Constraints:
    """`clock` is the clock's port, None for a combinational unit; `steady` the ports without a deadline."""

    design: Design
    clock: str | None
    steady: tuple[str, ...]
    period: float

    def sdc(self) -> str:
        """Synopsys Design Constraints; a fifth of the period is left to the outside at either end."""
        name = self.design.name
        lines = [
            f"# {name}: one clock, synchronous reset (timed like any other input), nothing asynchronous inside.",
            f"current_design {name}",
            "set_units -time ns",
            *self._clock(),
            *self._delays(),
            *self._exceptions(),
        ]
        return "\n".join(lines) + "\n"

    def xdc(self) -> str:
        """The same for Vivado, out of context."""
        lines = [f"# {self.design.name}, out of context: no pins, no I/O buffers.", *self._clock(), *self._delays()]
        return "\n".join([*lines, *self._exceptions()]) + "\n"

    def _clock(self) -> list[str]:
        if self.clock is None:
            return [
                "# Combinational: a clock that exists in time only.",
                f"create_clock -name core -period {self.period:g}",
            ]
        return [f"create_clock -name core -period {self.period:g} [get_ports {self.clock}]"]

    def _delays(self) -> list[str]:
        late = f"{self.period / 5:g}"
        ports = {
            kind: [p.name for p in self.design.ports if p.direction == kind and p.name != self.clock]
            for kind in ("input", "output")
        }
        return [
            f"set_{kind}_delay {late} -clock [get_clocks core] [get_ports {{{' '.join(_bits(self.design, names))}}}]"
            for kind, names in ports.items()
            if names
        ]

    def _exceptions(self) -> list[str]:
        if not self.steady:
            return ["# There are no false paths and no multicycle paths."]
        ports = " ".join(_bits(self.design, self.steady))
        return ["# These hold still while data is inside.", f"set_false_path -from [get_ports {{{ports}}}]"]


def constraints(design: Design, period: float) -> Constraints:
    """Constraints for a clock of `period` ns."""
    config: Config = design.config
    name = "aclk" if isinstance(config, EngineConfig) else "clk"
    clock = name if any(port.name == name for port in design.ports) else None
    return Constraints(design, clock, _STEADY.get(type(config), ()), period)


def _bits(design: Design, names: list[str] | tuple[str, ...]) -> list[str]:
    """Patterns that match a port's bits."""
    return [name if design.port(name).width == 1 else f"{name}[*]" for name in names]

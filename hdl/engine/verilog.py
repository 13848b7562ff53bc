"""The engine's Verilog: the lane once, the core that instantiates them, and AXI's names on top."""

from ..emit import to_verilog
from .config import EngineConfig
from .core import STREAMS, Engine
from .lane import EngineLane
from .memory import RAM_MODULE

__all__ = ["contained_modules", "engine_verilog"]


def contained_modules(name: str) -> tuple[str, ...]:
    """The names of the modules that the engine `name` is made of."""
    return (f"{name}_core", f"{name}_core_lane", RAM_MODULE)


def engine_verilog(config: EngineConfig, name: str) -> tuple[str, list[tuple[str, str, int]]]:
    """Verilog whose top module is `name`, without the memory wrapper, and its ports as (name, direction, bits)."""
    modules = [to_verilog(EngineLane(config.lane), f"{name}_core_lane")]
    core = Engine(config, name)
    modules.append(to_verilog(core, f"{name}_core"))
    ports = [("aclk", "input", 1), ("aresetn", "input", 1)]
    for port, member in core.signature.members.items():
        ports.append((port, "output" if member.flow.name == "Out" else "input", member.shape))
    return "\n".join([_top(name, ports), *modules]), ports


def _top(name: str, ports: list[tuple[str, str, int]]) -> str:
    """The module with AXI's names for clock and reset; attributes tell Vivado which buses the clock belongs to."""
    buses = ":".join(["s_axi", *STREAMS])
    # One file with several modules is what is easiest to hand on; nothing else is waived.
    lines = ["/* verilator lint_off DECLFILENAME */", f"module {name} ("]
    for index, (port, direction, bits) in enumerate(ports):
        if port == "aclk":
            lines.append(f'  (* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {buses}, ASSOCIATED_RESET aresetn" *)')
        width = f"[{bits - 1}:0] " if bits > 1 else ""
        lines.append(f"  {direction} {width}{port}{',' if index < len(ports) - 1 else ''}")
    lines += [");", f"  {name}_core core (", "    .clk(aclk),", "    .rst(~aresetn),"]
    rest = [port for port, _, _ in ports[2:]]
    lines += [f"    .{port}({port}){',' if port != rest[-1] else ''}" for port in rest]
    return "\n".join([*lines, "  );", "endmodule", ""])

"""The engine's Verilog: AXI's names on top, the core, and a module for each of its parts."""

from collections.abc import Callable

from amaranth.lib.wiring import In

from ..emit import to_verilog
from .config import EngineConfig
from .core import EngineCore
from .interfaces import BEAT, AxiLite

__all__ = ["engine_verilog"]


def engine_verilog(
    config: EngineConfig, name: str, *, emit: Callable[[EngineCore, str], str] = to_verilog
) -> tuple[str, list[tuple[str, str, int]]]:
    """Verilog whose top module is `name`, without the memory wrapper, and its ports as (name, direction, bits).

    `emit` writes the core as a module of a name.
    """
    ports = [("aclk", "input", 1), ("aresetn", "input", 1), ("irq", "output", 1)]
    inner = ["clk(aclk)", "rst(~aresetn)", "irq(irq)"]
    for member, port in AxiLite.members.items():
        direction = "output" if port.flow is In else "input"  # the signature is seen from the manager
        ports.append((f"s_axi_{member}", direction, port.shape))
        inner.append(f"axi_{member}(s_axi_{member})")
    streams = {**{f"s_axis_{name}": name for name in config.operand_streams}, "m_axis_results": "results"}
    for outer, stream in streams.items():
        forth, back = ("input", "output") if outer.startswith("s_") else ("output", "input")
        fields = [(f"t{field}", BEAT[field].width) for field in ("data", "keep", "last")]
        ports += [(f"{outer}_{field}", forth, bits) for field, bits in fields]
        ports += [(f"{outer}_tvalid", forth, 1), (f"{outer}_tready", back, 1)]
        payload = ", ".join(f"{outer}_{field}" for field, _ in reversed(fields))
        inner += [f"{stream}_payload({{{payload}}})", *(f"{stream}_{n}({outer}_t{n})" for n in ("valid", "ready"))]
    core = emit(EngineCore(config), f"{name}_core")
    return f"{_top(name, list(streams), ports, inner)}\n{core}", ports


def _top(name: str, streams: list[str], ports: list[tuple[str, str, int]], inner: list[str]) -> str:
    """The module with AXI's names; attributes tell Vivado which buses the clock belongs to."""
    buses = ":".join(["s_axi", *streams])
    lines = [f"module {name} ("]
    for index, (port, direction, bits) in enumerate(ports):
        if port == "aclk":
            lines.append(f'  (* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {buses}, ASSOCIATED_RESET aresetn" *)')
        width = f"[{bits - 1}:0] " if bits > 1 else ""
        lines.append(f"  {direction} {width}{port}{',' if index < len(ports) - 1 else ''}")
    lines += [");", f"  {name}_core core ("]
    lines += [f"    .{connection}{',' if connection != inner[-1] else ''}" for connection in inner]
    return "\n".join([*lines, "  );", "endmodule", ""])

"""An instance of the memory wrapper."""

from amaranth.hdl import ClockSignal, Instance, Module, Signal, Value, ValueLike

from .pipeline import wire
from .wrappers import RAM_MODULE

__all__ = ["ram"]


def ram(
    m: Module, name: str, depth: int, write: tuple[ValueLike, Value, Value], read: tuple[ValueLike, Value]
) -> Signal:
    """A memory: `write` = (enable, address, data), `read` = (enable, address); returns the data read, a cycle later.

    An enable of several bits is one for each part of a word, the lowest first.
    """
    enable, data = Value.cast(write[0]), Value.cast(write[2])
    address = (depth - 1).bit_length()
    output = Signal(len(data), name=f"{name}_read_data")
    grain = [("p", "GRAIN", len(data) // len(enable))] if len(enable) > 1 else []
    m.submodules[name] = Instance(
        RAM_MODULE,
        ("p", "WIDTH", len(data)),
        ("p", "DEPTH", depth),
        ("p", "ADDRESS", address),
        *grain,
        ("i", "clk", ClockSignal()),
        ("i", "write_enable", wire(m, f"{name}_write_enable", enable)),
        ("i", "write_address", wire(m, f"{name}_write_address", write[1][:address])),
        ("i", "write_data", wire(m, f"{name}_write_data", data)),
        ("i", "read_enable", wire(m, f"{name}_read_enable", read[0])),
        ("i", "read_address", wire(m, f"{name}_read_address", read[1][:address])),
        ("o", "read_data", output),
    )
    return output

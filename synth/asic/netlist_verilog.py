"""A mapped netlist as structural Verilog, for timing analysers and layout."""

import re

from .netlist import CONSTANT_1, Instance, Netlist

__all__ = ["instance_name", "netlist_verilog"]


def netlist_verilog(netlist: Netlist, name: str) -> str:
    """One flat module with the top-level ports; nets are called n2, n3, ...; black boxes are not allowed."""
    if netlist.black_kinds:
        raise ValueError(f"{name}: {len(netlist.black_kinds)} black boxes, expected none")

    def net(number: int) -> str:
        return f"1'b{number}" if number <= CONSTANT_1 else f"n{number}"

    ports = [*netlist.inputs, *netlist.outputs]
    lines = [f"module {name} ({', '.join(ports)});"]
    for direction, names in (("input", netlist.inputs), ("output", netlist.outputs)):
        for port in names:
            width = len(netlist.ports[port])
            lines.append(f"  {direction} {f'[{width - 1}:0] ' if width > 1 else ''}{port};")
    used = sorted({n for i in netlist.instances for n in i.nets.values() if n > CONSTANT_1})
    lines += [f"  wire n{n};" for n in used]
    for port in netlist.inputs:
        bits = netlist.ports[port]
        for i, n in enumerate(bits):
            if n > CONSTANT_1:
                lines.append(f"  assign n{n} = {port}{f'[{i}]' if len(bits) > 1 else ''};")
    for port in netlist.outputs:
        bits = netlist.ports[port]
        lines += [f"  assign {port}{f'[{i}]' if len(bits) > 1 else ''} = {net(n)};" for i, n in enumerate(bits)]
    for instance in netlist.instances:
        pins = ", ".join(f".{pin}({net(n)})" for pin, n in instance.nets.items())
        lines.append(f"  {instance.cell.name} {instance_name(instance)} ({pins});")
    return "\n".join([*lines, "endmodule", ""])


def instance_name(instance: Instance) -> str:
    """The plain identifier that an instance has in the Verilog."""
    return "u_" + re.sub(r"\W", "_", instance.name).strip("_")

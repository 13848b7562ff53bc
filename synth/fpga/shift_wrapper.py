"""A unit between shift registers: on any device it fits the pins, and every path runs from register to register."""

from dataclasses import dataclass

from ...hdl.design import Design

__all__ = ["SHIFT_WRAPPER", "ShiftWrapper", "shift_wrapper"]

SHIFT_WRAPPER = "fgmp_shift_wrapper"


@dataclass(frozen=True)
class ShiftWrapper:
    """Verilog of the module `SHIFT_WRAPPER` around a unit, and how many flip-flops it adds at inputs and outputs."""

    verilog: str
    inputs: int
    outputs: int


def shift_wrapper(design: Design) -> ShiftWrapper:
    """Inputs come from a shift register; outputs are loaded into another one and shifted out."""
    clock = next((p.name for p in design.ports if p.name in ("clk", "aclk")), None)
    connections = [f".{clock}(clk)"] if clock else []
    counts = {"input": 0, "output": 0}
    for port in design.ports:
        if port.name == clock:
            continue
        low = counts[port.direction]
        counts[port.direction] += port.width
        vector = "feed" if port.direction == "input" else "answer"
        connections.append(f".{port.name}({vector}[{low + port.width - 1}:{low}])")
    inputs, outputs = counts["input"], counts["output"]
    assert min(inputs, outputs) > 1
    verilog = f"""\
module {SHIFT_WRAPPER} (input clk, input serial, input load, output result);
  reg [{inputs - 1}:0] feed;
  reg [{outputs - 1}:0] taken;
  wire [{outputs - 1}:0] answer;
  always @(posedge clk) begin
    feed <= {{feed[{inputs - 2}:0], serial}};
    taken <= load ? answer : {{taken[{outputs - 2}:0], 1'b0}};
  end
  assign result = taken[{outputs - 1}];
  {design.name} unit ({", ".join(connections)});
endmodule
"""
    return ShiftWrapper(verilog, inputs, outputs)

"""The memory and the clock gate, each in a file of its own: an integrator replaces them by cells of the technology."""

import re

__all__ = ["CLOCK_GATE_MODULE", "CLOCK_GATE_VERILOG", "RAM_MODULE", "RAM_VERILOG", "WRAPPERS", "used_wrappers"]

RAM_MODULE = "fgmp_ram_1r1w"

RAM_VERILOG = """\
// The only memory of all engines: one write port, one synchronous read port that holds its output, empty at first.
// `write_enable` has a bit for every GRAIN bits of a word. Replace it by a macro of your technology. A word is never
// read in the cycle in which it is written.
`ifndef FGMP_RAM_1R1W
`define FGMP_RAM_1R1W
module fgmp_ram_1r1w #(
  parameter WIDTH = 64,
  parameter DEPTH = 64,
  parameter ADDRESS = 6,
  parameter GRAIN = WIDTH
) (
  input clk,
  input [WIDTH/GRAIN-1:0] write_enable,
  input [ADDRESS-1:0] write_address,
  input [WIDTH-1:0] write_data,
  input read_enable,
  input [ADDRESS-1:0] read_address,
  output reg [WIDTH-1:0] read_data
);
  reg [WIDTH-1:0] memory [0:DEPTH-1];
  genvar part;
  generate
    for (part = 0; part < WIDTH / GRAIN; part = part + 1) begin : written
      always @(posedge clk)
        if (write_enable[part]) memory[write_address][part*GRAIN +: GRAIN] <= write_data[part*GRAIN +: GRAIN];
    end
  endgenerate
  always @(posedge clk) begin
    // Unknown on a collision, so that no tool builds logic for one.
    if (read_enable) read_data <= |write_enable && write_address == read_address ? {WIDTH{1'bx}} : memory[read_address];
  end
endmodule
`endif
"""

CLOCK_GATE_MODULE = "fgmp_clock_gate"

CLOCK_GATE_VERILOG = """\
// Stops the clock of a part whose registers keep what they have. As it stands it does nothing, which is right too:
// those registers have enables of their own. Replace it by a clock gate of your technology (a latch that is open while
// `clk` is low, and an AND gate); on an FPGA leave it alone.
`ifndef FGMP_CLOCK_GATE
`define FGMP_CLOCK_GATE
module fgmp_clock_gate (
  input clk,
  input enable,
  output gated_clk
);
  wire unused_enable = enable;
  assign gated_clk = clk;
endmodule
`endif
"""

WRAPPERS = {RAM_MODULE: RAM_VERILOG, CLOCK_GATE_MODULE: CLOCK_GATE_VERILOG}
"""Verilog of the wrappers by module name."""


def used_wrappers(verilog: str) -> list[str]:
    """Names of the wrappers that a unit's Verilog instantiates."""
    return [name for name in WRAPPERS if re.search(rf"^\s*{name}\b", verilog, re.MULTILINE)]

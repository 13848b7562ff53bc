"""fgmp.synth.asic: Verilog to standard cells, and what they take: area, clock rate, energy."""

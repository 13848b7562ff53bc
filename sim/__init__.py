"""fgmp.sim: cocotb benches that hold the Verilog against the golden model. Submodules are imported by name."""

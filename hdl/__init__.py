"""fgmp.hdl: Amaranth modules and the Verilog they become. Submodules are imported by name; nothing is imported here."""

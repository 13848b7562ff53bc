"""Place and route on FPGAs with yosys and nextpnr (docs/silicon.md)."""

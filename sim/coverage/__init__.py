"""What a unit's regression covers: functional bins that are named here, lines and toggles that Verilator counts."""

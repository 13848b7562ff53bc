"""What a unit is driven with and must answer, as files, with benches that replay them and need nothing of fgmp."""

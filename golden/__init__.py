"""fgmp.golden: quantizer and bit-exact golden model. Submodules are imported by name; nothing is imported here."""

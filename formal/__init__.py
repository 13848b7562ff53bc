"""fgmp.formal: what is proven of the generated hardware, with yosys and the solver yices, both from pip."""

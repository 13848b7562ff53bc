"""fgmp.sim.engine: the engine in simulation: its driver, a fast simulation in C++, benches, and whole models on it."""

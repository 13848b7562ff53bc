"""fgmp.sim.engine: the engine in simulation: its driver, a fast harness, benches, and whole models on it."""

"""What all scenarios of the engine's bench share: GEMMs that are run and compared, with all that they count."""

import random

from ...formats import ceil_div
from ...golden.packing import unpack
from ...hdl.config import EngineConfig
from ..runner import SimulationError
from ..tally import Tally
from .driver import EngineDriver, Result
from .gemm import Gemm
from .random_gemms import random_gemm
from .verilated import VerilatedEngine
from .wire import operand_streams, result_bytes

__all__ = ["Bench", "expect_gemm", "operand", "program"]


class Bench:
    """An engine, its driver, and a count of what was compared."""

    def __init__(self, engine: VerilatedEngine, driver: EngineDriver, seed: int):
        self.engine = engine
        self.driver = driver
        self.config = driver.config
        self.chance = random.Random(seed)
        self.tally = Tally()

    def expect(self, what: str, found: object, expected: object) -> None:
        """Count a comparison."""
        self.tally.expect(what, found, expected)

    def small_gemm(self) -> Gemm:
        """A GEMM of two tiles or fewer in each direction, with a row for every stream of weights at least."""
        config, chance = self.config, self.chance
        outputs = chance.randint(config.weight_streams, config.lanes + 1)
        sizes = chance.randint(1, config.rows + 1), outputs, chance.randint(1, min(300, config.k_max))
        return random_gemm(sizes, chance, config)

    def long_gemm(self) -> Gemm:
        """A GEMM that takes some hundred cycles at least."""
        config = self.config
        return random_gemm((config.rows + 3, 2 * config.lanes + 1, min(config.k_max, 600)), self.chance, config)

    def recovers(self, after: str) -> None:
        """The next GEMM must be right, whatever was before."""
        self.gemm(f"gemm after {after}", self.small_gemm())

    def gemm(self, what: str, gemm: Gemm) -> Result | None:
        """Run a GEMM and compare its results, its events and the bytes of its streams."""
        try:
            result = self.driver.run(gemm)
        except SimulationError as error:
            self.expect(what, str(error), "a result")
            self.engine.reset()
            return None
        expect_gemm(self, what, gemm, result)
        return result

    def clear_events(self) -> None:
        """Write one to every event."""
        self.driver.write("EVENTS", 0xFFFFFFFF)


def expect_gemm(bench: Bench, what: str, gemm: Gemm, result: Result) -> None:
    """Compare what a GEMM left with the golden model, value by value; poisoned ones are in `gemm`'s expectation."""
    name = f"{what} M={gemm.rows} N={gemm.outputs} K={gemm.columns} {'raw' if gemm.raw else 'packed'} to {gemm.output}"
    expected = result_bytes(gemm, bench.config)
    bench.expect(f"{name}: result bytes", len(result.data), len(expected))
    bench.tally.expect_bytes(f"{name}: results", result.data, expected, gemm.rows * gemm.outputs)
    bench.expect(f"{name}: events", sorted(result.events), ["done"])
    beats = {"weight_beats": 0, "activation_beats": 0, "result_beats": ceil_div(len(expected), 16)}
    for stream, data in operand_streams(gemm, bench.config).items():
        beats[f"{operand(stream).removesuffix('s')}_beats"] += ceil_div(len(data), 16)
    for counter, value in (beats | _reads(gemm, bench.config)).items():
        bench.expect(f"{name}: {counter}", result.counters[counter], value)
    # Each cycle until the last block pair has one, or is charged to one cause; those before the first are in no span.
    counted = result.counters
    stalls = sum(value for counter, value in counted.items() if counter.startswith("stall_"))
    least, most = counted["span"] - counted["products"], counted["cycles"] - counted["products"]
    bench.expect(f"{name}: {stalls} stalls, {least} to {most}", least <= stalls <= most, True)
    bench.expect(f"{name}: handshake faults", bench.engine.handshake_faults, 0)


def _reads(gemm: Gemm, config: EngineConfig) -> dict[str, int]:
    """What a GEMM must count of block pairs and of reads, whatever its streams do."""
    weight, activations = unpack(gemm.weight).fp8, gemm.quantized().fp8
    row_tiles, column_tiles = ceil_div(gemm.rows, config.rows), ceil_div(gemm.outputs, config.lanes)
    return {
        "products": gemm.rows * column_tiles * activations.shape[1],
        "activation_fp8_reads": int(activations.sum()) * column_tiles,
        "weight_reads": weight.numel() * row_tiles,
        "weight_fp8_reads": int(weight.sum()) * row_tiles,
    }


def operand(stream: str) -> str:
    """Whose stream it is: "weights" or "activations", as events and counters have it."""
    return stream.split("_", maxsplit=1)[0]


def program(bench: Bench, gemm: Gemm) -> None:
    """Write a GEMM's registers and START; the interrupt is that of its end."""
    for address, value in gemm.register_writes():
        bench.engine.write(address, value)
    bench.driver.write("INTERRUPT_ENABLE", 1)
    bench.driver.write("CONTROL", 1)

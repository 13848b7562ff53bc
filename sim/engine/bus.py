"""Scenarios of the register bus: what every access answers, in any order, at any pace."""

import itertools

from ...formats import BLOCK_SIZE
from ...hdl.engine.registers import (
    IDENTIFICATION,
    INPUT_SITE,
    MAP_VERSION,
    OUTPUT_FORMATS,
    OUTPUT_SITE,
    REGISTERS,
    register,
)
from .checks import Bench
from .gemm import field_value

__all__ = ["accesses_in_flight", "byte_strobes", "registers"]

# Between registers and behind them, beside their first byte, beside that of a site memory's word, behind the memories.
_UNKNOWN = (0x014, 0x3FC, 0x031, 0x022, 0x023, 0x3FFC, *(site + byte for site in (INPUT_SITE, OUTPUT_SITE) for byte in
            (1, 2, 3)), 0x30000, 0x3FFFC)  # fmt: skip
_ROUNDS = 8


def accesses_in_flight(bench: Bench) -> None:
    """Writes and reads that do not wait for answers: address, data and answers each go on as they can."""
    chance, engine = bench.chance, bench.engine
    writable = [item for item in REGISTERS if item.access == "rw" and item.name != "INTERRUPT_ENABLE"]
    constant = ("ID", "VERSION", "SHAPE", "FEATURES", "LIMITS")
    known = {register(name).offset: bench.driver.read(name) for name in constant}
    for number in range(_ROUNDS):
        held = {item.name: 0 for item in writable}
        writes, expected = [(item.offset, 0) for item in writable], [0] * len(writable)
        for _ in range(60):
            item, value = chance.choice(writable), chance.randrange(1 << 32)
            if chance.random() < 0.2:
                writes.append((chance.choice(_UNKNOWN), value))
                expected.append(2)
            else:
                writes.append((item.offset, value))
                expected.append(0)
                held[item.name] = value & item.mask
        reads = [chance.choice([*known, *_UNKNOWN]) for _ in range(60)]
        pauses = tuple(chance.choice((0.0, 0.3, 0.8)) for _ in range(5)) if number else (0.0,) * 5
        answers, found = engine.overlapped(writes, reads, pauses)
        bench.expect(f"answers of {len(writes)} writes, pauses {pauses}", answers, expected)
        wanted = [(known.get(address, 0), 0 if address in known else 2) for address in reads]
        bench.expect(f"answers of {len(reads)} reads, pauses {pauses}", found, wanted)
        bench.expect("registers afterwards", {name: bench.driver.read(name) for name in held}, held)
    bench.expect("breaches of the registers' handshake", engine.handshake_faults, 0)
    for item in writable:
        bench.driver.write(item.name, 0)
    bench.recovers("register accesses in flight")


def byte_strobes(bench: Bench) -> None:
    """Every register that can be written, every choice of bytes, over all ones, all zeros and what was there.

    The other bytes stay, and unused bits read 0.
    """
    for item in (item for item in REGISTERS if item.access == "rw"):
        bench.driver.write(item.name, 0)
        held = 0
        for strobes, kind in itertools.product(range(16), (0, 0xFFFFFFFF, None)):
            value = bench.chance.randrange(1 << 32) if kind is None else kind
            chosen = sum(0xFF << 8 * byte for byte in range(4) if strobes >> byte & 1)
            held = held & ~chosen | value & chosen & item.mask
            bench.expect(f"write to {item.name}", bench.engine.write(item.offset, value, strobes), 0)
            bench.expect(f"{item.name} after {value:#010x}, strobes {strobes:04b}", bench.driver.read(item.name), held)
        bench.driver.write(item.name, 0)
    bench.recovers("byte strobes")


def registers(bench: Bench) -> None:
    """Registers say what was built, read-only ones stay, unknown addresses answer SLVERR, illegal GEMMs are refused."""
    engine, driver, config = bench.engine, bench.driver, bench.config
    # The driver has compared SHAPE and FEATURES.
    constant = {"ID": IDENTIFICATION, "VERSION": field_value("VERSION", map=MAP_VERSION)}
    constant["LIMITS"] = field_value("LIMITS", k_max=config.k_max, n_max_blocks=config.n_max // BLOCK_SIZE)
    for name, value in constant.items():
        bench.expect(name, driver.read(name), value)
    for name in (item.name for item in REGISTERS if item.access == "ro"):
        before = driver.read(name)
        bench.expect(f"write to {name}", engine.write(register(name).offset, ~before), 0)
        bench.expect(f"{name} after a write", driver.read(name), before)
    for address in _UNKNOWN:
        bench.expect(f"write to {address:#x}", engine.write(address, 1), 2)
        bench.expect(f"read of {address:#x}", engine.read_response(address), (0, 2))
    only_written = (item.offset for item in REGISTERS if item.access == "wo")
    for address in (*only_written, INPUT_SITE, OUTPUT_SITE + 0xFFFC):
        bench.expect(f"read of {address:#x}", engine.read_response(address), (0, 0))
    for delays in itertools.product(
        (0, 1, 2, 5), (0, 1, 2, 5), (0, 1, 2, 5)
    ):  # address, data, readiness for the answer
        value = bench.chance.randrange(1 << 16)
        bench.expect(f"write with delays {delays}", engine.write(register("N").offset, value, delays=delays), 0)
        bench.expect(f"N after delays {delays}", driver.read("N"), value)
        bench.expect(f"unknown address, delays {delays}", engine.write(0x014, value, delays=delays), 2)
    for name, delay in itertools.product(("N", "ID", "SHAPE"), range(6)):
        answer = engine.read_response(register(name).offset, delay)
        bench.expect(f"read of {name}, answer heard {delay} cycles late", answer, (driver.read(name), 0))
        bench.expect(f"read of 0x014, {delay} cycles late", engine.read_response(0x014, delay), (0, 2))
    bench.expect("breaches of the registers' handshake", engine.handshake_faults, 0)
    _refused(bench)


def _refused(bench: Bench) -> None:
    """What may not be started is refused, and leaves nothing behind."""
    driver, config = bench.driver, bench.config
    illegal = [{"M": 0}, {"N": 0}, {"K": 0}, {"K": config.k_max + 1}, {"FORMAT": field_value("FORMAT", output=3)}]
    illegal += [{"FORMAT": field_value("FORMAT", exponent=e)} for e in (95, -95)]
    packed = field_value("FORMAT", output=OUTPUT_FORMATS.index("packed"))
    illegal.append({"FORMAT": packed, "N": config.n_max + 1} if config.packed_output else {"FORMAT": packed})
    if config.raw_input == "none":
        illegal.append({"FORMAT": field_value("FORMAT", raw_input=1)})
    for name, formats, there in (
        ("INPUT_SELECTOR", {"raw_input": 1}, config.raw_input != "none"),
        ("OUTPUT_SELECTOR", {"output": OUTPUT_FORMATS.index("packed")}, config.packed_output),
    ):
        wrong = [{"tensor_exponent": 48}, {"tensor_exponent": -48}]
        wrong += [] if config.four_over_six else [{"four_over_six": 1}]
        if there:
            chosen = field_value("FORMAT", **formats)
            illegal += [{"FORMAT": chosen, name: field_value(name, **fields)} for fields in wrong]
    quiet = {"INPUT_SELECTOR": 0, "OUTPUT_SELECTOR": 0}
    for change in illegal:
        if change.get("N", 0) >> 16:  # more than the register holds
            continue
        for name, value in ({"M": 1, "N": 1, "K": 16, "FORMAT": 0, **quiet} | change).items():
            driver.write(name, value)
        driver.write("CONTROL", 1)
        bench.expect(f"START with {change}", driver.events(), {"config_error"})
        bench.expect(f"busy after {change}", driver.read("STATUS") & 3, 0)
        bench.clear_events()
        bench.expect("events cleared", driver.events(), set())
    # What a selector that is not used cannot do is nobody's business.
    for name in quiet:
        driver.write(name, field_value(name, tensor_exponent=48, four_over_six=1))
    bench.recovers("illegal GEMMs")
    for name, value in quiet.items():
        driver.write(name, value)

"""Scenarios of the engine: results bit for bit, and a defined answer to every breach of protocol."""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from ...formats import BLOCK_SIZE, ceil_div
from ...golden.packing import Packed, pack
from ..campaign import check_names
from ..runner import CampaignResult, SimulationError
from ..tally import Tally
from .bus import accesses_in_flight, byte_strobes, registers
from .checks import Bench, operand, program
from .driver import cycle_limit
from .gemm import Gemm, field_value
from .limits import limits
from .observations import aborted_pairs, charged_stalls, events_and_interrupts, no_event_is_lost
from .pace import late_streams, promised_rate
from .random_gemms import corner_sizes, random_gemm, random_mixed
from .wire import operand_streams, result_bytes

__all__ = ["SCENARIOS", "check_scenario", "run_scenarios"]

_STALLS = (0.0, 0.0, 0.1, 0.5, 0.9)


def _corners(bench: Bench) -> None:
    for sizes in corner_sizes(bench.config):
        bench.gemm("corner", random_gemm(sizes, bench.chance, bench.config))


def _kinds(bench: Bench) -> None:
    config = bench.config
    outputs = ("float32", "bfloat16", *(("packed",) if config.packed_output else ()))
    for raw in (False, True) if config.raw_input != "none" else (False,):
        for output in outputs:
            sizes = config.rows + 1, 2 * config.lanes + 3, min(700, config.k_max)
            bench.gemm("kind", random_gemm(sizes, bench.chance, config, kind=(raw, output)))


def _stalls(bench: Bench) -> None:
    chance, config = bench.chance, bench.config
    try:
        for _ in range(40):
            for stream in (*config.operand_streams, "results"):
                bench.engine.stall(stream, chance.choice(_STALLS))
            sizes = (
                chance.randint(1, 2 * config.rows + 1),
                chance.randint(1, 3 * config.lanes),
                chance.randint(1, min(600, config.k_max)),
            )
            bench.gemm("stalls", random_gemm(sizes, chance, config))
    finally:
        for stream in (*config.operand_streams, "results"):
            bench.engine.stall(stream, 0)


def _beyond_the_buffer(bench: Bench) -> None:
    config = bench.config
    for columns in sorted(
        {min(config.resident_k, config.k_max), min(config.resident_k + 1, config.k_max), config.k_max}
    ):
        bench.gemm("long K", random_gemm((config.rows + 1, config.lanes + 1, columns), bench.chance, config))


def _back_to_back(bench: Bench) -> None:
    driver = bench.driver
    for _ in range(5):
        first = bench.long_gemm()
        second = next(gemm for gemm in iter(bench.small_gemm, None) if not _overwrites(gemm, first))
        sent = driver.start(first)
        again = driver.start(second)  # waits: its registers were written while the first GEMM runs
        bench.expect("waiting", driver.read("STATUS") & 3, 3)
        # Of other GEMMs, a legal one and one that is not: what waits keeps its registers.
        for columns, event in ((16, "start_rejected"), (0, "config_error")):
            for name, value in {"M": 1, "N": 1, "K": columns, "FORMAT": 0}.items():
                driver.write(name, value)
            driver.write("CONTROL", 1)
            bench.expect("third START", driver.events(), {event})
            bench.clear_events()
        for gemm, counts in ((first, sent), (second, again)):
            try:
                result = driver.finish(
                    gemm, counts, cycle_limit(first, bench.config) + cycle_limit(second, bench.config)
                )
            except SimulationError as error:
                bench.expect("back to back", str(error), "a result")
                bench.engine.reset()
                return
            found, expected = result.data == result_bytes(gemm, bench.config), True
            bench.expect("back to back", found, expected)
    bench.recovers("GEMMs back to back")


def _overwrites(gemm: Gemm, running: Gemm) -> bool:
    """Whether `gemm` needs writes to a site memory that the running GEMM reads, which is forbidden."""
    pairs = ((gemm.settings, running.settings), (gemm.output_settings, running.output_settings))
    return any(
        new is not None and old is not None and (old.mode == "static" or old.channel_codes is not None)
        for new, old in pairs
    )


def _wrong_lengths(bench: Bench) -> None:
    """Too short: the GEMM ends with an empty beat. Too long: its results are right, the surplus is dropped.

    A surplus within the beat of the last byte is none: DMAs without TKEEP send whole beats.
    """
    engine, driver = bench.engine, bench.driver
    changes = ("one byte", "half", "one beat", "packet")
    for which, change in itertools.product(bench.config.operand_streams, changes):
        for longer in (False, True):
            gemm = bench.small_gemm()
            data = operand_streams(gemm, bench.config)
            size = len(data[which])
            amount = {"one byte": 1, "half": max(size // 2, 1), "one beat": 16, "packet": size - 1}[change]
            amount = max(min(amount, size - 1), 0)
            data[which] = data[which] + bytes(max(amount, 1)) if longer else data[which][: size - amount]
            if not longer and amount == 0:
                continue
            program(bench, gemm)
            for stream, content in data.items():
                engine.send(stream, content)
            engine.run(cycle_limit(gemm, bench.config))
            what = f"{which} {'longer' if longer else 'shorter'} by {amount} of {size} bytes"
            beats = ceil_div(len(data[which]), 16) - ceil_div(size, 16)
            wrong = set() if longer and not beats else {f"{operand(which)}_{'long' if longer else 'short'}"}
            bench.expect(what, driver.events(), {"done"} | wrong)
            packet = engine.packet()
            if longer:
                bench.expect(f"{what}: results", packet == result_bytes(gemm, bench.config), True)
            else:
                bench.expect(f"{what}: results end", packet is not None, True)
            bench.clear_events()
            bench.recovers(what)


def _whole_beats(bench: Bench) -> None:
    """A DMA without TKEEP sends every beat in full: that is no event, and the results are right."""
    for _ in range(12):
        gemm = bench.small_gemm()
        program(bench, gemm)
        for stream, data in operand_streams(gemm, bench.config).items():
            bench.engine.send(stream, data, full=True)
        bench.engine.run(cycle_limit(gemm, bench.config))
        bench.expect("whole beats: events", bench.driver.events(), {"done"})
        bench.expect("whole beats: results", bench.engine.packet() == result_bytes(gemm, bench.config), True)
        bench.clear_events()
    bench.recovers("whole beats")


def _empty_last_beat(bench: Bench) -> None:
    """TLAST on a beat of its own, without a byte, comes after the last byte's beat: too long, whenever it comes."""
    engine, driver = bench.engine, bench.driver
    for stalled in (0.0, 0.6) * 4:
        for which in bench.config.operand_streams:
            gemm = bench.small_gemm()
            program(bench, gemm)
            engine.stall(which, stalled)
            for stream, data in operand_streams(gemm, bench.config).items():
                engine.send(stream, data, last=stream != which)
            engine.send(which, b"")
            engine.run(cycle_limit(gemm, bench.config))
            bench.expect(f"empty last beat of {which}", driver.events(), {"done", f"{operand(which)}_long"})
            bench.expect(
                f"empty last beat of {which}: results", engine.packet() == result_bytes(gemm, bench.config), True
            )
            engine.stall(which, 0)
            bench.clear_events()
            bench.recovers(f"an empty last beat of {which}")


def _without_tlast(bench: Bench) -> None:
    """A packet without an end: the GEMM is right, the stream waits for TLAST, ABORT makes it forget."""
    engine, driver = bench.engine, bench.driver
    for which in bench.config.operand_streams:
        gemm = bench.small_gemm()
        program(bench, gemm)
        for stream, data in operand_streams(gemm, bench.config).items():
            engine.send(stream, data, last=stream != which)
        engine.run(cycle_limit(gemm, bench.config))
        bench.expect(f"{which} without TLAST", driver.events(), {"done", f"{operand(which)}_long"})
        bench.expect(f"{which} without TLAST: results", engine.packet() == result_bytes(gemm, bench.config), True)
        bench.clear_events()
        driver.write("CONTROL", field_value("CONTROL", abort=1))
        bench.recovers(f"{which} without TLAST and ABORT")


def _interrupted(bench: Bench) -> None:
    """Reset or ABORT at any moment leaves a usable engine."""
    engine, driver, chance = bench.engine, bench.driver, bench.chance
    longest = 0
    whole = bench.gemm("long", bench.long_gemm())
    most = max(1500, whole.counters["cycles"]) if whole else 1500
    for how in ("reset", "abort"):
        for _ in range(15):
            gemm = bench.long_gemm()
            for stream in (*bench.config.operand_streams, "results"):
                engine.stall(stream, chance.choice((0.0, 0.3)))
            driver.start(gemm)
            engine.run(chance.randint(1, most))
            if how == "reset":
                engine.reset()
            else:
                # As software must: stop the DMAs first, then forget what the engine already has.
                engine.stop_inputs()
                driver.write("CONTROL", field_value("CONTROL", abort=1))
                bench.expect("busy after ABORT", driver.read("STATUS") & 3, 0)
                bench.clear_events()
            for stream in (*bench.config.operand_streams, "results"):
                engine.stall(stream, 0)
            engine.run(20)  # what remains of an aborted packet leaves, with TLAST
            if how == "abort":
                sent = b"".join(iter(engine.packet, None))
                bench.expect("beats before ABORT", result_bytes(gemm, bench.config)[: len(sent)] == sent, True)
                longest = max(longest, len(sent))
            engine.discard()
            bench.recovers(how)
    bench.expect(f"the longest of the aborted packets has {longest} bytes", longest > 0, True)
    _aborted_while_a_beat_waits(bench)
    _aborted_with_running_dmas(bench)


def _aborted_with_running_dmas(bench: Bench) -> None:
    """DMAs that cannot be stopped are drained by small GEMMs, as docs/integration.md has it.

    Whatever they still send: both, one, the last beats of either, or the packets of a second GEMM.
    """
    engine, driver, chance = bench.engine, bench.driver, bench.chance
    streams = bench.config.operand_streams
    for case in ("both", "late end", "one ended", "two packets") * 3:
        gemm = bench.long_gemm()
        driver.start(gemm)
        engine.stall(chance.choice(streams), 0.9)
        engine.run(chance.randint(1, 300))
        if case == "two packets":
            driver.start(bench.small_gemm())
        if case == "one ended":
            stopped = chance.choice(streams)
            for _ in range(20_000):
                if not engine.queued(stopped):
                    break
                for other in streams:
                    engine.stall(other, 0.0 if other == stopped else 0.95)
                engine.run(10)
                bench.clear_events()
        driver.write("CONTROL", field_value("CONTROL", abort=1))
        if case == "late end":  # the last beats come when nothing runs
            for stream in streams:
                engine.trim(stream, chance.randint(0, 2))
            engine.run(20)
        for stream in streams:
            engine.stall(stream, 0.3)
        bench.expect(f"ABORT with running DMAs, {case}: drained", _drained(bench), True)
        for stream in streams:
            engine.stall(stream, 0)
        engine.run(20)
        while engine.packet() is not None:
            pass
        bench.recovers(f"ABORT with running DMAs, {case}")


def _drained(bench: Bench) -> bool:
    """Small GEMMs and ABORT in turn, until all DMAs were idle before the ABORT; False if they no longer get on."""
    engine, driver = bench.engine, bench.driver
    streams = bench.config.weight_streams  # each has a packet if N is at least their number
    for name, value in (("M", 1), ("N", streams), ("K", 1), ("FORMAT", 0)):
        driver.write(name, value)
    left, rounds = None, 0
    while rounds < 100:
        before, left = left, sum(map(engine.queued, bench.config.operand_streams))
        rounds = rounds + 1 if left == before else 0
        driver.write("CONTROL", field_value("CONTROL", start=1))
        bench.clear_events()
        engine.run(bench.chance.randint(20, 2000))
        bench.clear_events()
        engine.run(20)
        idle = not any(map(engine.queued, bench.config.operand_streams))
        driver.write("CONTROL", field_value("CONTROL", abort=1))
        engine.run(20)
        bench.clear_events()
        if idle:
            return True
    return False


def _aborted_while_a_beat_waits(bench: Bench) -> None:
    """A beat on offer stays until it is taken, the packet is closed, and only then the next GEMM begins."""
    engine, driver = bench.engine, bench.driver
    gemm = bench.long_gemm()
    engine.stall("results", 1.0)
    program(bench, gemm)
    for stream, data in operand_streams(gemm, bench.config).items():
        engine.send(stream, data)
    engine.run(50_000)  # until a beat is on offer and everything behind it stands still
    results = result_bytes(gemm, bench.config)
    engine.discard()
    faults, packets = engine.handshake_faults, driver.read("RESULT_PACKETS")
    driver.write("CONTROL", field_value("CONTROL", abort=1))
    bench.clear_events()
    engine.run(5)
    bench.expect("STATUS while the packet is open", driver.read("STATUS"), field_value("STATUS", closing=1))
    bench.expect("RESULT_PACKETS while the packet is open", driver.read("RESULT_PACKETS"), packets)
    bench.expect("beats withdrawn by ABORT", engine.handshake_faults - faults, 0)
    following = bench.small_gemm()
    program(bench, following)
    for stream, data in operand_streams(following, bench.config).items():
        engine.send(stream, data)
    engine.wait(cycle_limit(following, bench.config))
    bench.expect("STATUS of a GEMM behind it", driver.read("STATUS"), field_value("STATUS", closing=1, waiting=1))
    engine.stall("results", 0)
    engine.run(cycle_limit(following, bench.config))
    bench.expect("events of the GEMM behind it", driver.events(), {"done"})
    bench.clear_events()
    before = engine.packet()
    bench.expect("the aborted packet was closed behind the beat on offer", before == results[:16], True)
    bench.expect("gemm behind it", engine.packet() == result_bytes(following, bench.config), True)
    bench.expect("STATUS once it was taken", driver.read("STATUS"), 0)
    bench.expect("RESULT_PACKETS once it was taken", driver.read("RESULT_PACKETS"), packets + 2)
    driver.write("CONTROL", field_value("CONTROL", abort=1))
    engine.run(20)
    bench.expect("RESULT_PACKETS after ABORT without a packet", driver.read("RESULT_PACKETS"), packets + 2)
    bench.recovers("ABORT without a packet")


def _late_packets(bench: Bench) -> None:
    """GEMMs that end early owe a packet each; as many as can be counted are dropped, and further ones wait."""
    engine, driver = bench.engine, bench.driver
    first, *others = bench.config.operand_streams
    for owed in (1, 3, 4):
        gemm = bench.small_gemm()
        late = operand_streams(bench.small_gemm(), bench.config)
        ended = driver.read("JOBS")
        for _ in range(owed):
            program(bench, gemm)
            engine.send(first, operand_streams(gemm, bench.config)[first][:1])
            engine.run(2000)
            engine.packet()
            bench.clear_events()
        bench.expect(f"{owed} short GEMMs ended", driver.read("JOBS") - ended, min(owed, 3))
        for _ in range(owed):
            for stream in others:
                engine.send(stream, late[stream])
        for _ in range(200):
            engine.run(1000)
            bench.clear_events()
            if not any(map(engine.queued, others)):
                break
        engine.run(2000)
        bench.clear_events()
        while engine.packet() is not None:
            pass
        bench.expect(f"{owed} late packets: GEMMs ended", driver.read("JOBS") - ended, owed)
        bench.expect(f"{owed} late packets: beats left", sum(map(engine.queued, others)), 0)
        bench.recovers(f"{owed} late packets")


def _poison(bench: Bench) -> None:
    """NaN codes and illegal block scales poison their rows and set their flag, whatever else the row holds."""
    kinds = [
        ("payload", 0x7F, "nan"),
        ("payload", 0xFF, "nan"),
        *(("scales", c, "format_error") for c in (0, 106, 255)),
    ]
    for part, code, event in kinds * 4:
        gemm = random_gemm(
            (5, bench.config.lanes + 2, min(300, bench.config.k_max)),
            bench.chance,
            bench.config,
            kind=(False, "float32"),
        )
        generator = torch.Generator().manual_seed(bench.chance.randrange(1 << 30))
        weight = pack(random_mixed(gemm.outputs, gemm.columns, 0.5, generator))  # blocks of both kinds
        gemm = replace(gemm, weight=weight, _cache={})
        weight, row = _spoiled(gemm.weight, part, code, bench.chance)
        expected = Gemm(gemm.weight, gemm.activations, relu=gemm.relu).expected().clone()
        expected[:, row] = float("nan")
        spoiled = Gemm(weight, gemm.activations, relu=gemm.relu, _cache={"expected": expected})
        result = bench.driver.run(spoiled)
        what = f"{part} {code:#04x}"
        bench.expect(what, result.data == result_bytes(spoiled, bench.config), True)
        bench.expect(f"{what}: events", result.events, {"done", event})
    _poisoned_activations(bench)
    if bench.config.raw_input != "none":
        gemm = random_gemm((5, 7, min(100, bench.config.k_max)), bench.chance, bench.config, kind=(True, "float32"))
        values = gemm.activations.clone()  # type: ignore[union-attr]
        values[2, bench.chance.randrange(gemm.columns)] = float("nan")
        gemm = Gemm(gemm.weight, values, settings=gemm.settings, relu=gemm.relu)
        result = bench.driver.run(gemm)
        bench.expect("raw NaN", result.data == result_bytes(gemm, bench.config), True)
        bench.expect("raw NaN: events", result.events, {"done", "nan"})
    bench.recovers("poison")


def _poisoned_activations(bench: Bench) -> None:
    """A NaN in each element of a block of activations poisons its row, and no other."""
    generator = torch.Generator().manual_seed(bench.chance.randrange(1 << 30))
    columns = min(64, bench.config.k_max)
    weight = pack(random_mixed(bench.config.lanes, columns, 0.5, generator))
    for element in range(BLOCK_SIZE):
        activations = random_mixed(3, columns, 0.0, generator)
        activations.codes[1, element % activations.codes.shape[1], element] = 0x7F | element % 2 << 7
        gemm = Gemm(weight, activations)
        result = bench.driver.run(gemm)
        what = f"NaN in element {element} of activations"
        bench.expect(what, result.data == result_bytes(gemm, bench.config), True)
        bench.expect(f"{what}: events", result.events, {"done", "nan"})


def _spoiled(weight: Packed, part: str, code: int, chance: random.Random) -> tuple[Packed, int]:
    """A weight with one byte changed, and the row that it is in."""
    rows, columns = weight.shape
    bits = np.unpackbits(weight.mask.view(rows, -1).numpy(), axis=1, bitorder="little")[:, : ceil_div(columns, 16)]
    flat = bits.ravel()
    wanted = 1 if part == "payload" else 0
    where = np.flatnonzero(flat == wanted)
    assert len(where), "a weight without the kind of block that is to be spoiled would test nothing"
    block = int(chance.choice(where))
    element = chance.randrange(16)
    position = (
        int((8 + 8 * flat[:block].astype(np.int64)).sum()) + element
        if part == "payload"
        else int((flat[:block] == 0).sum())
    )
    parts = {"payload": weight.payload.clone(), "scales": weight.scales.clone()}
    parts[part][position] = code
    return Packed(weight.shape, weight.exponent, weight.mask, parts["scales"], parts["payload"]), block // bits.shape[1]


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "corners of the tiles": _corners,
    "every kind of input and output": _kinds,
    "random stalls on all streams": _stalls,
    "K beyond the buffer": _beyond_the_buffer,
    "GEMMs back to back": _back_to_back,
    "wrong stream lengths": _wrong_lengths,
    "DMAs without TKEEP": _whole_beats,
    "TLAST on an empty beat": _empty_last_beat,
    "streams without TLAST": _without_tlast,
    "packets of GEMMs that have ended": _late_packets,
    "reset and ABORT in the middle": _interrupted,
    "NaN and illegal scales": _poison,
    "registers": registers,
    "byte strobes": byte_strobes,
    "register accesses in flight": accesses_in_flight,
    "limits": limits,
    "events and interrupts": events_and_interrupts,
    "events that are cleared as they come": no_event_is_lost,
    "stalls are charged to who stalls": charged_stalls,
    "ABORT of two GEMMs": aborted_pairs,
    "the rate that is promised": promised_rate,
    "streams that come late": late_streams,
}


def check_scenario(name: str) -> None:
    """Raise InputError for a scenario that there is not."""
    check_names([name], list(SCENARIOS), "scenario")


def run_scenarios(bench: Bench, names: Iterable[str], *, tally: type[Tally] = Tally) -> list[CampaignResult]:
    """Run the named scenarios and return a result for each; `tally` is what counts."""
    results = []
    for name in names:
        cycles = bench.engine.cycles
        bench.tally = tally()
        SCENARIOS[name](bench)
        results.append(CampaignResult(name, **vars(bench.tally), cycles=bench.engine.cycles - cycles))
    return results

"""What stands around the lanes, in Amaranth's simulator: order of rows, accumulators, activation decoder."""

import random

import pytest
import torch
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.errors import InputError
from fgmp.formats import BLOCK_SIZE, E2M1, E4M3
from fgmp.golden.blocks import Blocks
from fgmp.hdl.accumulators import Accumulators
from fgmp.hdl.config import AccumulatorConfig, ActivationDecoderConfig, RowOrderConfig
from fgmp.hdl.engine.row_order import RowOrder
from fgmp.hdl.operands import ActivationDecoder
from fgmp.sim.parts.weight_stationary import Tile


def simulate(unit, bench):
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def offered(steps, rows, pauses):
    """Rows in the order of the hardware: a list of (row, precision, first, last) for each of (fp8, row_final, sort)."""
    unit = RowOrder(RowOrderConfig(rows))
    seen = [[]]
    chance = random.Random(len(steps))

    async def bench(ctx):
        waiting = list(steps)
        cycles = 0
        while len(seen) <= len(steps):
            cycles += 1
            assert cycles < 4000
            taken = bool(ctx.get(unit.valid)) and chance.random() >= pauses
            ctx.set(unit.taken, taken)
            loads = bool(waiting) and bool(ctx.get(unit.ready)) and chance.random() >= pauses
            if loads:
                bits, row_final, sort = waiting.pop(0)
                ctx.set(unit.fp8, sum(bit << i for i, bit in enumerate(bits)))
                ctx.set(unit.row_final, row_final)
                ctx.set(unit.sort, sort)
            ctx.set(unit.load, loads)
            if taken:
                seen[-1].append(tuple(ctx.get(s) for s in (unit.row, unit.row_fp8, unit.first, unit.last)))
                if ctx.get(unit.last):
                    seen.append([])
            await ctx.tick()

    simulate(unit, bench)
    return seen[:-1]


def expected(steps):
    """The same from the page: rows of the precision visited last come first, then the others, both ascending."""
    found, latest = [], 0
    for bits, row_final, sort in steps:
        rows = list(range(row_final + 1))
        if sort:
            rows = [r for r in rows if bits[r] == latest] + [r for r in rows if bits[r] != latest]
        latest = bits[rows[-1]]
        found.append([(r, bits[r], int(i == 0), int(i == row_final)) for i, r in enumerate(rows)])
    return found


STEP = st.tuples(st.lists(st.integers(0, 1), min_size=8, max_size=8), st.integers(0, 7), st.booleans())


@settings(max_examples=60)
@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from((0.0, 0.4)))
def test_rows_come_by_precision(steps, pauses):
    assert offered(steps, 8, pauses) == expected(steps)


def test_steps_follow_without_a_pause():
    """One row a cycle over the border between steps, those of a single row too."""
    unit = RowOrder(RowOrderConfig(8))
    finals = (7, 0, 0, 3, 7)

    async def bench(ctx):
        ctx.set(unit.taken, 1)
        rows, step = [], 0
        for _ in range(60):
            loaded = bool(ctx.get(unit.ready)) and step < len(finals)
            ctx.set(unit.row_final, finals[min(step, len(finals) - 1)])
            ctx.set(unit.load, loaded)
            if ctx.get(unit.valid):
                rows.append(ctx.get(unit.row))
            elif rows:
                break
            await ctx.tick()
            step += loaded
        assert rows == [r for final in finals for r in range(final + 1)]

    simulate(unit, bench)


@given(st.integers(0, 1 << 30), st.booleans())
def test_measured_order_is_the_hardware_order(seed, ends):
    """What energy is measured with is what `RowOrder` does."""
    fp8 = torch.rand(1, 3, 8, generator=torch.Generator().manual_seed(seed)) < 0.5
    blocks = Blocks(fp8, torch.full(fp8.shape, 8, dtype=torch.uint8), torch.zeros(*fp8.shape, 16, dtype=torch.uint8))
    last = torch.tensor([ends])
    tile = Tile(a=blocks, w=blocks[:, :, 0], sums=torch.zeros(1, 8, dtype=torch.int64), first=last, last=last)
    steps = [(fp8[0, b].int().tolist(), 7, not (ends and b == 2)) for b in range(3)]
    order = tile.row_order("precision")
    assert order[0].tolist() == [[row for row, *_ in step] for step in expected(steps)]
    assert torch.equal(tile.visited(order).fp8, fp8.gather(2, order))
    assert tile.row_order("ascending")[0].tolist() == [list(range(8))] * 3


def test_accumulators_hold_what_was_written():
    config = AccumulatorConfig(k_max=64, rows=16, lanes=2)
    unit = Accumulators(config)
    chance = random.Random(1)

    async def bench(ctx):
        held = {}
        for row in range(config.rows):
            held[row] = chance.getrandbits(config.width)
            for port, value in ((unit.write, 1), (unit.write_row, row), (unit.write_sums, held[row])):
                ctx.set(port, value)
            await ctx.tick()
        shown = None
        for _ in range(600):
            write, read = chance.random() < 0.7, chance.random() < 0.7
            row, other = chance.sample(range(config.rows), 2)
            value = chance.getrandbits(config.width)
            for port, now in (
                (unit.write, write), (unit.write_row, row), (unit.write_sums, value), (unit.read, read),
                (unit.read_row, other),
            ):  # fmt: skip
                ctx.set(port, now)
            shown = held[other] if read else shown
            if write:
                held[row] = value
            await ctx.tick()
            assert shown is None or ctx.get(unit.sums) == shown

    simulate(unit, bench)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AccumulatorConfig(rows=12), "accumulators rows: 12, expected 8, 16, 32, 64 or 128"),
        (lambda: AccumulatorConfig(lanes=0), "accumulators lanes: 0, expected 1 to 64"),
        (lambda: AccumulatorConfig(storage="latches"), "accumulators storage: 'latches', expected banked or memory"),
        (lambda: RowOrderConfig(rows=7), "row order rows: 7"),
        (lambda: ActivationDecoderConfig("fp4"), "activation decoder formats: 'fp4', expected mixed or fp8"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_every_code_is_decoded():
    """All codes of both formats and all scales: values by the formats' own tables, and the other bus stands still."""
    unit = ActivationDecoder(ActivationDecoderConfig())
    decoded = unit.decoded

    def elements(ctx, name, bits):
        value = ctx.get(getattr(decoded, name))
        return [value >> bits * i & (1 << bits) - 1 for i in range(BLOCK_SIZE)]

    def bus(ctx, prefix):
        significands, triples = elements(ctx, f"{prefix}significands", 4), elements(ctx, f"{prefix}triples", 6)
        positive, negative = elements(ctx, f"{prefix}positives", 1), elements(ctx, f"{prefix}negatives", 1)
        assert triples == [3 * s for s in significands]
        signs = [p - n for p, n in zip(positive, negative, strict=True)]
        assert [abs(s) for s in signs] == [int(s > 0) for s in significands]
        return [sign * s for sign, s in zip(signs, significands, strict=True)]

    async def bench(ctx):
        ctx.set(unit.valid, 1)
        for scale in range(256):
            codes = [(scale + 17 * i) % 256 for i in range(BLOCK_SIZE)]
            ctx.set(unit.stored, {"codes": int.from_bytes(bytes(codes), "little"), "scale": scale, "fp8": 1})
            await ctx.tick()
            exponents = elements(ctx, "exponents", 4)
            values = [v * 2.0 ** (e - 1 - 9) for v, e in zip(bus(ctx, ""), exponents, strict=True)]
            nans = [c & 0x7F in E4M3.nan_codes for c in codes]
            magnitudes = [0.0 if nan else E4M3.magnitudes[c & 0x7F] for c, nan in zip(codes, nans, strict=True)]
            assert values == [m if c < 128 else -m for m, c in zip(magnitudes, codes, strict=True)]
            assert ctx.get(decoded.nan) == any(nans)
            assert ctx.get(decoded.fp8) == 1
            assert ctx.get(decoded.illegal) == 0
            before = bus(ctx, "")
            nibbles = [(scale + i) % 16 for i in range(BLOCK_SIZE)]
            packed = sum(code << 4 * i for i, code in enumerate(nibbles))
            ctx.set(unit.stored, {"codes": packed | (1 << 64), "scale": scale, "fp8": 0})
            await ctx.tick()
            halves = [2 * E2M1.magnitudes[c & 7] for c in nibbles]
            assert bus(ctx, "narrow_") == [h if c < 8 else -h for h, c in zip(halves, nibbles, strict=True)]
            assert bus(ctx, "") == before
            legal = 1 <= scale <= 105  # up to 72 (docs/numerics.md)
            assert ctx.get(decoded.illegal) == (not legal)
            assert (ctx.get(decoded.fp8), ctx.get(decoded.nan)) == (0, 0)
            if legal:
                value = ctx.get(decoded.scale) * 2.0 ** (ctx.get(decoded.shift) - 9)
                assert value == E4M3.magnitudes[scale]
        narrow = bus(ctx, "narrow_")
        ctx.set(unit.valid, 0)
        ctx.set(unit.stored, {"codes": 0, "scale": 0, "fp8": 0})
        await ctx.tick()
        assert bus(ctx, "narrow_") == narrow

    simulate(unit, bench)

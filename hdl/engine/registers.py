"""The register map: the one description that the RTL, the Python constants, the C header and the docs are made from."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "COUNTERS", "EVENTS", "IDENTIFICATION", "INPUT_SITE", "MAP_VERSION", "OUTPUT_FORMATS", "OUTPUT_SITE", "REGISTERS",
    "SITE_STRIDE", "Field", "Register", "c_header", "markdown", "register",
]  # fmt: skip

IDENTIFICATION = 0x46474D50
MAP_VERSION = 5
"""2 added RESULT_PACKETS and STATUS.closing, 3 STALL_SUMS, 4 four over six, 5 adds FEATURES.weight_streams."""
OUTPUT_FORMATS = ("float32", "bfloat16", "packed")

INPUT_SITE = 0x10000
OUTPUT_SITE = 0x20000
SITE_STRIDE = 16
"""Windows of the site memories, 64 KB each: 16 bytes for each block of 16 channels, of which there are up to 4,096."""


@dataclass(frozen=True)
class Field:
    """Bits `low` to `low + bits - 1` of a register."""

    name: str
    low: int
    bits: int
    text: str
    signed: bool = False

    @property
    def mask(self) -> int:
        """Its bits within the register."""
        return (1 << self.bits) - 1 << self.low


@dataclass(frozen=True)
class Register:
    """A 32-bit register. `access`: "ro", "rw", "wo" (reads 0), "w1c" (write one to clear)."""

    name: str
    offset: int
    access: str
    text: str
    fields: tuple[Field, ...]

    @property
    def mask(self) -> int:
        """The bits that it has; the others read 0."""
        return sum(field.mask for field in self.fields)


EVENTS = (
    ("done", "a GEMM ended, whether it succeeded or not"),
    ("nan", "an element was NaN; rows that it reached read 0x7FC00000"),
    ("format_error", "a block scale was illegal; rows that it reached read 0x7FC00000"),
    ("overflow", "an accumulator overflowed; its row reads 0x7FC00000"),
    ("weights_short", "TLAST of the weights came too early; the GEMM was ended"),
    ("weights_long", "TLAST of the weights came too late; what was too much is discarded"),
    ("activations_short", "TLAST of the activations came too early; the GEMM was ended"),
    ("activations_long", "TLAST of the activations came too late; what was too much is discarded"),
    ("start_rejected", "START while a GEMM was already waiting; the START was ignored"),
    (
        "config_error",
        "START with an illegal size, format, exponent or selector setting; the START was ignored",
    ),
)

COUNTERS = (
    ("cycles", "cycles of the GEMM, from its start to the transfer of its last result"),
    ("products", "cycles in which all lanes received a block pair"),
    ("span", "cycles from the first to the last block pair, both included"),
    ("stall_weights", "cycles without a block pair for lack of weights"),
    ("stall_activations", "cycles without a block pair for lack of activations"),
    ("stall_results", "cycles without a block pair because the result buffer was full"),
    ("activation_fp8_reads", "reads of the activation buffer's second bank, of `products` reads of the first"),
    ("weight_reads", "first halves of blocks that were read from the weight buffer"),
    ("weight_fp8_reads", "second halves"),
    ("weight_beats", "beats taken from the streams of weights"),
    ("activation_beats", "beats taken from the activation stream"),
    ("result_beats", "beats handed to the result stream"),
    ("stall_sums", "cycles without a block pair because the row's sum of the step before was on its way"),
)


def _bits(name: str, bits: int, text: str, signed: bool = False) -> tuple[Field, ...]:
    return (Field(name, 0, bits, text, signed),)


def _selector(prefix: str, offset: int, whose: str) -> tuple[Register, ...]:
    return (
        Register(
            f"{prefix}_SELECTOR", offset, "rw", f"{whose} selector (docs/numerics.md section 4)",
            (
                Field("significand", 0, 8, "of the threshold"),
                Field("exponent", 8, 6, "of the threshold"),
                Field("mode", 16, 2, "0 dynamic, 1 static, 2 all FP4, 3 all FP8"),
                Field("four_over_six", 18, 1, "a block may take the scale amax / 4; must be 0 where not built in"),
                Field("tensor_exponent", 24, 8, "-47 to 47", True),
            ),
        ),
    )  # fmt: skip


REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x000, "ro", "identification", _bits("value", 32, f'{IDENTIFICATION:#010x}, "FGMP"')),
    Register(
        "VERSION",
        0x004,
        "ro",
        "version",
        (Field("map", 0, 16, f"of this register map, {MAP_VERSION}"),),
    ),
    Register(
        "SHAPE",
        0x008,
        "ro",
        "parameters of this engine",
        (
            Field("lanes", 0, 8, "lanes"),
            Field("rows", 8, 8, "rows of a row tile"),
            Field("slots", 16, 8, "K tiles in the activation buffer"),
            Field("k_tile_blocks", 24, 8, "blocks of a K tile"),
        ),
    ),
    Register(
        "FEATURES",
        0x00C,
        "ro",
        "parameters of this engine",
        (
            Field("raw_input", 0, 2, "0 none, 1 float32, 2 bfloat16"),
            Field("packed_output", 2, 1, "1 if built in"),
            Field("channel_codes", 3, 1, "1 if built in"),
            Field("four_over_six", 4, 1, "1 if built in"),
            Field("accumulator_bits", 8, 8, "width of an accumulator"),
            Field("weight_streams", 16, 3, "streams of weights"),
        ),
    ),
    Register(
        "LIMITS",
        0x010,
        "ro",
        "parameters of this engine",
        (
            Field("k_max", 0, 16, "longest K, in values"),
            Field("n_max_blocks", 16, 16, "largest N of packed results, in blocks of 16"),
        ),
    ),
    Register(
        "CONTROL",
        0x020,
        "wo",
        "control",
        (
            Field("start", 0, 1, "start a GEMM with the registers as they are; one may wait while another runs"),
            Field(
                "abort",
                1,
                1,
                "forget all GEMMs and all data inside; registers stay, an open packet of results is closed",
            ),
        ),
    ),
    Register(
        "STATUS",
        0x024,
        "ro",
        "status",
        (
            Field("busy", 0, 1, "a GEMM is running"),
            Field("waiting", 1, 1, "a GEMM waits for the running one"),
            Field("irq", 2, 1, "level of the interrupt output"),
            Field("closing", 3, 1, "after ABORT: the end of the open packet of results was not taken yet"),
        ),
    ),
    Register(
        "EVENTS",
        0x028,
        "w1c",
        "sticky events; write one to clear, an event in the same cycle wins",
        tuple(Field(name, bit, 1, text) for bit, (name, text) in enumerate(EVENTS)),
    ),
    Register(
        "INTERRUPT_ENABLE",
        0x02C,
        "rw",
        "the interrupt is high while an event is set whose bit is set here",
        tuple(Field(name, bit, 1, f"enables `{name}`") for bit, (name, _) in enumerate(EVENTS)),
    ),
    Register("M", 0x030, "rw", "rows of the activations", _bits("value", 24, "1 to 2**24 - 1")),
    Register("N", 0x034, "rw", "rows of the weight", _bits("value", 16, "1 to 65535; packed results: to n_max")),
    Register("K", 0x038, "rw", "columns of both", _bits("value", 16, "1 to k_max; the last block is padded")),
    Register(
        "FORMAT",
        0x03C,
        "rw",
        "formats",
        (
            Field("output", 0, 2, "0 float32, 1 bfloat16, 2 packed"),
            Field("raw_input", 2, 1, "activations come unquantized"),
            Field("relu", 3, 1, "negative results become +0, after rounding; NaN stays"),
            Field("exponent", 8, 8, "sum of both tensor exponents, -94 to 94", True),
        ),
    ),
    *_selector("INPUT", 0x040, "the input's"),
    *_selector("OUTPUT", 0x044, "the output's"),
    Register(
        "JOBS",
        0x048,
        "ro",
        "GEMMs ended since reset, with success or not; ABORT is none",
        (Field("ended", 0, 32, "wraps; tells apart ends that EVENTS shows as one DONE"),),
    ),
    Register(
        "RESULT_PACKETS",
        0x04C,
        "ro",
        "packets of results that were taken up to their TLAST, since reset; those that ABORT closed too",
        (Field("ended", 0, 32, "wraps; says after ABORT whether the armed result DMA was used up"),),
    ),
    *(
        Register(name.upper(), 0x080 + 4 * i, "ro", text, _bits("value", 32, "of the running or last GEMM; wraps"))
        for i, (name, text) in enumerate(COUNTERS)
    ),
)


def register(name: str) -> Register:
    """The register called `name`."""
    return next(r for r in REGISTERS if r.name == name)


def c_header() -> str:
    """Offsets, shifts and masks as a C header."""
    lines = ["/* Register map of the fgmp engine, generated by fgmp. Do not edit. */", "#ifndef FGMP_ENGINE_H"]
    lines += ["#define FGMP_ENGINE_H", "", f"#define FGMP_ID_EXPECTED {IDENTIFICATION:#010x}u"]
    lines += [f"#define FGMP_MAP_VERSION {MAP_VERSION}u", f"#define FGMP_INPUT_SITE {INPUT_SITE:#07x}u"]
    lines += [f"#define FGMP_OUTPUT_SITE {OUTPUT_SITE:#07x}u", f"#define FGMP_SITE_STRIDE {SITE_STRIDE}u", ""]
    for item in REGISTERS:
        lines.append(f"#define FGMP_{item.name} {item.offset:#05x}u /* {item.access}: {item.text} */")
        for field in item.fields:
            name = f"FGMP_{item.name}_{field.name.upper()}"
            lines += [
                f"#define {name}_SHIFT {field.low}u",
                f"#define {name}_MASK {field.mask:#010x}u",
            ]
    return "\n".join([*lines, "", "#endif", ""])


def markdown() -> str:
    """The register map as Markdown tables."""
    return "\n".join(_markdown()) + "\n"


def _markdown() -> Iterator[str]:
    yield "| offset | register | access | |"
    yield "|---|---|---|---|"
    for item in REGISTERS:
        yield f"| {item.offset:#05x} | `{item.name}` | {item.access} | {item.text} |"
    yield ""
    yield "| register | bits | field | |"
    yield "|---|---|---|---|"
    for item in REGISTERS:
        for field in item.fields:
            bits = f"{field.low + field.bits - 1}:{field.low}" if field.bits > 1 else str(field.low)
            signed = " (two's complement)" if field.signed else ""
            yield f"| `{item.name}` | {bits} | `{field.name}` | {field.text}{signed} |"

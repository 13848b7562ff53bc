"""The engine in a LiteX SoC: the C driver runs GEMMs from the SoC's memory to its memory, bit for bit."""

import contextlib
import ctypes
import importlib.util
import random
import subprocess
import sys

import pytest

from fgmp.__main__ import main
from fgmp.hdl.design import build_preset
from fgmp.hdl.engine.registers import EVENTS, register
from fgmp.sim.engine.random_gemms import random_gemm
from fgmp.sim.engine.wire import operand_streams, result_bytes
from fgmp.sim.runner import tools

from .conftest import ROOT
from .test_driver import NOT_BUILT_IN, OK, REJECTED, TIMEOUT, Bus, CGemm, Engine, c_gemm

pytest.importorskip("litex")

ACCESSES = "void csr_write_simple(unsigned long, unsigned long);\nunsigned long csr_read_simple(unsigned long);\n"
MEMORY, SIZE = 0x4000_0000, 0x10000
WORD, BAD_BUFFER = 4, -7


class Buffer(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint64), ("bytes", ctypes.c_uint32)]


def elaborate(folder, verilog):
    """A SoC of the engine, memory, and a bus master from outside; its Verilog and the headers for software."""
    from litex.build.generic_platform import Pins, Subsignal
    from litex.build.io import CRG
    from litex.build.sim import SimPlatform
    from litex.soc.integration.export import get_csr_header, get_mem_header, get_soc_header
    from litex.soc.integration.soc_core import SoCMini
    from litex.soc.interconnect import wishbone

    spec = importlib.util.spec_from_file_location("fgmp_litex", folder / "fgmp_litex.py")
    peripheral = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peripheral)
    widths = {"adr": 30, "dat_w": 32, "dat_r": 32, "sel": 4, "cyc": 1, "stb": 1, "we": 1, "ack": 1}
    pins = [Subsignal(name, Pins(width)) for name, width in widths.items()]
    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), ("host", 0, *pins), ("engine_irq", 0, Pins(1))])
    soc = SoCMini(platform, clk_freq=int(50e6))
    soc.crg = CRG(platform.request("sys_clk"))
    host, pads = wishbone.Interface(data_width=32), platform.request("host")
    soc.bus.add_master("host", host)
    soc.add_ram("buffers", MEMORY, SIZE)
    soc.comb += [getattr(host, name).eq(getattr(pads, name)) for name in ("adr", "dat_w", "sel", "cyc", "stb", "we")]
    soc.comb += [pads.dat_r.eq(host.dat_r), pads.ack.eq(host.ack)]
    soc.engine = peripheral.FGMPEngine(soc, str(verilog))
    soc.comb += platform.request("engine_irq").eq(soc.engine.ev.done.trigger)
    soc.finalize()
    platform.get_verilog(soc, name="soc").write(str(folder / "soc.v"))
    regions = {name: soc.csr_regions[name] for name in soc.csr_regions}
    headers = {
        "generated/csr.h": get_csr_header(regions, soc.constants, csr_base=soc.mem_regions["csr"].origin),
        "generated/mem.h": get_mem_header(soc.mem_regions),
        "generated/soc.h": get_soc_header(soc.constants, with_access_functions=False),
        "hw/common.h": ACCESSES,
        "system.h": "",
    }
    for name, text in headers.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="module", params=[1, 2])
def system(request, tmp_path_factory):
    """The SoC with the driver, loaded, and the engine's configuration; with one stream of weights, or with two."""
    folder = tmp_path_factory.mktemp(f"litex{request.param}")
    changes = [] if request.param == 1 else ["lanes=8", "weight_streams=2"]
    design = build_preset("engine-4", changes, "engine_in_soc")
    for name, text in design.sources.items():
        (folder / name).write_text(text)
    assert main(["driver", "--litex", "-o", str(folder)]) == 0
    with contextlib.chdir(folder):  # memories are initialized from files beside the Verilog
        elaborate(folder, folder / "engine_in_soc.v")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fPIC", "-I."]
    for name in ("fgmp_litex", "fgmp_driver"):
        subprocess.run(["c++", "-x", "c", *strict, "-c", f"{name}.c", "-o", f"{name}.o"], cwd=folder, check=True)
    with tools("verilator"):
        command = ["verilator", "--cc", "--exe", "--build", "-j", "2", "-Wno-fatal", "--top-module", "soc", "-O3"]
        command += ["--prefix", "Vsoc", "--Mdir", "obj", "-CFLAGS", "-fPIC -O1", "-LDFLAGS", "-shared", "-o", "soc.so"]
        command += ["soc.v", *design.sources, str(ROOT / "tests" / "data" / "litex_host.cpp")]
        command += [str(folder / "fgmp_litex.o"), str(folder / "fgmp_driver.o")]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    library = ctypes.CDLL(str(folder / "obj" / "soc.so"))
    library.fgmp_litex_bus.restype = Bus
    library.fgmp_litex_run.argtypes = [
        ctypes.POINTER(Engine),
        ctypes.POINTER(CGemm),
        ctypes.POINTER(Buffer),
        Buffer,
        Buffer,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_uint32),
    ]
    library.csr_read_simple.restype, library.csr_read_simple.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    library.csr_write_simple.argtypes = [ctypes.c_ulong, ctypes.c_ulong]
    engine = Engine()
    assert library.fgmp_open(ctypes.byref(engine), library.fgmp_litex_bus()) == OK
    return library, engine, design.config


def put(library, address, data):
    padded = data + b"\xa5" * (-len(data) % WORD)
    for i in range(0, len(padded), WORD):
        library.csr_write_simple(int.from_bytes(padded[i : i + WORD], "little"), address + i)
    return Buffer(address, len(data))


def take(library, address, size):
    words = [library.csr_read_simple(address + i) for i in range(0, size, WORD)]
    return b"".join(word.to_bytes(WORD, "little") for word in words)[:size]


def run(system, gemm, polls=20_000):
    """Put operands into memory, run, and return (status, events, results, what lies behind their room)."""
    library, engine, config = system
    place, buffers = MEMORY, []
    for packet in operand_streams(gemm, config).values():
        buffers.append(put(library, place, packet))
        place += -(-len(packet) // 16) * 16 + 16
    size = len(result_bytes(gemm, config))
    room = -(-size // 16) * 16
    put(library, place, b"\x5a" * (room + 16))
    *weights, activations = buffers
    packets, events = (Buffer * len(weights))(*weights), ctypes.c_uint32()
    status = library.fgmp_litex_run(engine, c_gemm(gemm), packets, activations, Buffer(place, room), polls, events)
    return status, events.value, take(library, place, size), take(library, place + room, 16)


DONE = 1 << [name for name, _ in EVENTS].index("done")


@pytest.mark.long
def test_gemms_from_memory_to_memory(system):
    config = system[2]
    chance = random.Random(3)
    for output in ("float32", "bfloat16"):
        for _ in range(3):
            sizes = chance.randint(1, 9), chance.randint(config.weight_streams, 12), chance.randint(1, 200)
            gemm = random_gemm(sizes, chance, config, kind=(False, output))
            status, events, results, behind = run(system, gemm)
            assert (status, events) == (OK, DONE)
            assert results == result_bytes(gemm, config)
            assert behind == b"\x5a" * 16


@pytest.mark.long
def test_what_goes_wrong_leaves_the_dmas_at_rest(system):
    library, engine, config = system
    gemm = random_gemm((3, 5, 40), random.Random(4), config, kind=(False, "float32"))
    big = random_gemm((16, 40, 400), random.Random(4), config, kind=(False, "float32"))
    patience = (1, 3, 8, 34)  # at any moment: operands are on their way, results too
    for polls in patience:
        status, *_ = run(system, big, polls=polls)
        assert status == TIMEOUT or (status == OK and polls == max(patience))
        assert library.fgmp_abort(ctypes.byref(engine), 1000) == OK
        status, events, results, _ = run(system, gemm)
        assert (status, events, results) == (OK, DONE, result_bytes(gemm, config))
    buffer = Buffer(MEMORY, 16)
    illegal = c_gemm(gemm)
    illegal.exponent = 95
    assert library.fgmp_litex_run(engine, illegal, (Buffer * 4)(*[buffer] * 4), buffer, buffer, 10, None) == REJECTED
    engine.weight_streams += 1
    assert (
        library.fgmp_litex_run(engine, c_gemm(gemm), (Buffer * 4)(*[buffer] * 4), buffer, buffer, 10, None)
        == NOT_BUILT_IN
    )
    engine.weight_streams -= 1
    status, events, results, _ = run(system, gemm)
    assert (status, events, results) == (OK, DONE, result_bytes(gemm, config))


@pytest.mark.long
def test_what_was_before_does_not_count(system):
    """An event that nobody cleared, such as the end of a GEMM after the last poll, would end the next one at once."""
    library, _, config = system
    base = 0x9000_0000
    library.csr_write_simple(0, base + register("M").offset)
    library.csr_write_simple(1, base + register("CONTROL").offset)
    assert library.csr_read_simple(base + register("EVENTS").offset) != 0
    gemm = random_gemm((3, 5, 40), random.Random(4), config, kind=(False, "float32"))
    status, events, results, _ = run(system, gemm)
    assert (status, events, results) == (OK, DONE, result_bytes(gemm, config))
    assert library.csr_read_simple(base + register("EVENTS").offset) == 0


@pytest.mark.long
def test_buffers_that_dmas_would_run_out_of(system):
    library, engine, config = system
    gemm = c_gemm(random_gemm((3, 5, 40), random.Random(4), config, kind=(False, "float32")))
    good, empty, odd = Buffer(MEMORY, 16), Buffer(MEMORY, 0), Buffer(MEMORY, 24)
    for weights, activations, results in (
        (empty, good, good),
        (good, empty, good),
        (good, good, empty),
        (good, good, odd),
    ):
        packets = (Buffer * 4)(*[weights] * 4)
        assert library.fgmp_litex_run(engine, gemm, packets, activations, results, 10, None) == BAD_BUFFER


@pytest.mark.long
def test_the_interrupt_arrives(system):
    """It is the level that the SoC's event manager gets: high while an event that is enabled is set."""
    library = system[0]
    base = 0x9000_0000
    assert library.host_interrupt() == 0
    library.csr_write_simple(0, base + register("M").offset)  # what no GEMM may have
    refused = [name for name, _ in EVENTS].index("config_error")
    library.csr_write_simple(1 << refused, base + register("INTERRUPT_ENABLE").offset)
    library.csr_write_simple(1, base + register("CONTROL").offset)
    assert library.host_interrupt() == 1
    library.csr_write_simple(1 << refused, base + register("EVENTS").offset)
    assert library.host_interrupt() == 0


def test_the_peripheral_elaborates_by_itself(tmp_path):
    """As its first lines say."""
    assert main(["verilog", "engine-4", "-o", str(tmp_path)]) == 0
    assert main(["driver", "--litex", "-o", str(tmp_path)]) == 0
    done = subprocess.run([sys.executable, "fgmp_litex.py", "engine_4.v"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "out/litex/soc.v\n"), done.stderr
    assert "engine_4" in (tmp_path / "out" / "litex" / "soc.v").read_text()
    done = subprocess.run([sys.executable, "fgmp_litex.py", "x.v"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: fgmp_litex.py VERILOG, the file of an engine\n")

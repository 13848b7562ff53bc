"""The driver in C on the simulated engine: GEMMs of every kind, bit for bit; what an engine cannot do is refused."""

import ctypes
import errno
import random
import socket
import subprocess

import pytest
import yaml

from fgmp.__main__ import main
from fgmp.formats import SELECTOR_MODES
from fgmp.golden.packing import pack
from fgmp.hdl.config import EngineConfig
from fgmp.hdl.design import build_preset
from fgmp.hdl.engine.registers import EVENTS, OUTPUT_FORMATS, OUTPUT_SITE, REGISTERS, register
from fgmp.sim.engine.gemm import Gemm
from fgmp.sim.engine.random_gemms import random_gemm
from fgmp.sim.engine.verilated import VerilatedEngine, build_library
from fgmp.sim.engine.wire import operand_streams, result_bytes
from fgmp.sim.regression import captured_layers

READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
OK, NO_ENGINE, OTHER_MAP, TOO_LARGE, NOT_BUILT_IN, REJECTED, TIMEOUT = range(0, -7, -1)


class Bus(ctypes.Structure):
    _fields_ = [("read", READ), ("write", WRITE), ("context", ctypes.c_void_p)]


class Engine(ctypes.Structure):
    _fields_ = [("bus", Bus)] + [
        (name, ctypes.c_uint32)
        for name in ("lanes", "rows", "slots", "k_max", "n_max", "weight_streams", "accumulator_bits", "raw_input",
                     "packed_output", "channel_codes", "four_over_six")
    ]  # fmt: skip


class Uio(ctypes.Structure):
    _fields_ = [("file", ctypes.c_int), ("registers", ctypes.POINTER(ctypes.c_uint32))]


class Site(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint8) for name in ("significand", "exponent", "mode", "four_over_six")] + [
        ("tensor_exponent", ctypes.c_int8), ("static_fp8", ctypes.c_char_p), ("channel_codes", ctypes.c_char_p),
    ]  # fmt: skip


class CGemm(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in "mnk"] + [
        ("output", ctypes.c_uint8), ("relu", ctypes.c_uint8), ("exponent", ctypes.c_int8),
        ("raw", ctypes.POINTER(Site)), ("pack", ctypes.POINTER(Site)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    assert main(["driver", "-o", str(folder)]) == 0
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffreestanding"]
    command = ["c++", "-x", "c", *flags, "-fPIC", "-shared", "fgmp_driver.c", "-o", "driver.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "driver.so"))


@pytest.fixture(scope="module")
def built(cache):
    changes = ["lanes=16", "raw_input=float32", "packed_output=true", "channel_codes=true", "four_over_six=true"]
    design = build_preset("engine-4", changes, "engine_4")
    return build_library(design, cache=cache), design.config


@pytest.fixture
def simulated(built):
    """An engine after reset: the site memories of one that was used before hold what they held."""
    return VerilatedEngine(built[0]), built[1]


def bus_of(engine):
    def write(_, offset, value):
        engine.write(offset, value)

    return Bus(READ(lambda _, offset: engine.read(offset)), WRITE(write), None)


def site_of(settings):
    if settings is None:
        return None
    static, codes = settings.static_fp8, settings.channel_codes
    return ctypes.pointer(Site(
        settings.threshold.significand, settings.threshold.exponent, SELECTOR_MODES.index(settings.mode),
        int(settings.four_over_six), settings.exponent,
        None if static is None else bytes(static.flatten().int().tolist()) + b"\1",
        None if codes is None else bytes(codes.flatten().int().tolist()) + b"\1",
    ))  # fmt: skip


def c_gemm(gemm):
    sizes = gemm.rows, gemm.outputs, gemm.columns
    kinds = OUTPUT_FORMATS.index(gemm.output), int(gemm.relu), gemm.exponent
    return CGemm(*sizes, *kinds, site_of(gemm.settings), site_of(gemm.output_settings))


@pytest.mark.long
def test_gemms_of_every_kind(driver, simulated):
    simulator, config = simulated
    bus, engine = bus_of(simulator), Engine()
    assert driver.fgmp_open(ctypes.byref(engine), bus) == OK
    assert (engine.lanes, engine.rows, engine.slots) == (config.lanes, config.rows, config.slots)
    assert (engine.k_max, engine.n_max, engine.raw_input) == (config.k_max, config.n_max, 1)
    chance = random.Random(5)
    for raw in (False, True):
        for output in OUTPUT_FORMATS:
            for _ in range(3):
                sizes = chance.randint(1, 17), chance.randint(1, 40), chance.randint(1, 300)
                gemm = random_gemm(sizes, chance, config, kind=(raw, output))
                assert driver.fgmp_start(ctypes.byref(engine), ctypes.byref(c_gemm(gemm))) == OK
                for name, data in operand_streams(gemm, config).items():
                    simulator.send(name, data)
                events = ctypes.c_uint32()
                assert driver.fgmp_wait(ctypes.byref(engine), 100_000, ctypes.byref(events)) == OK
                assert events.value == 1 << [name for name, _ in EVENTS].index("done")
                assert simulator.packet() == result_bytes(gemm, config)
    assert driver.fgmp_wait(ctypes.byref(engine), 10, None) == TIMEOUT
    assert driver.fgmp_abort(ctypes.byref(engine), 100) == OK


@pytest.mark.long
def test_a_whole_layer_of_a_model(driver, simulated):
    """Every linear of a transformer layer, whole rows of K, in the model's own precisions; activations come raw."""
    simulator, config = simulated
    bus, engine = bus_of(simulator), Engine()
    assert driver.fgmp_open(ctypes.byref(engine), bus) == OK
    layer = [captured for captured in captured_layers() if ".layers.0." in captured.name]
    assert len(layer) == 7
    for captured in layer:
        gemm = Gemm(pack(captured.weight), captured.x, settings=captured.settings)
        assert driver.fgmp_start(ctypes.byref(engine), ctypes.byref(c_gemm(gemm))) == OK
        for name, data in operand_streams(gemm, config).items():
            simulator.send(name, data)
        events = ctypes.c_uint32()
        assert driver.fgmp_wait(ctypes.byref(engine), 1_000_000, ctypes.byref(events)) == OK
        assert events.value == 1 << [name for name, _ in EVENTS].index("done")
        assert simulator.packet() == result_bytes(gemm, config), captured.name


@pytest.mark.long
def test_what_an_engine_cannot_do(driver, simulated):
    simulator, config = simulated
    bus, engine = bus_of(simulator), Engine()
    assert driver.fgmp_open(ctypes.byref(engine), bus) == OK

    def start(**changes):
        return driver.fgmp_start(ctypes.byref(engine), ctypes.byref(CGemm(**{"m": 1, "n": 1, "k": 16} | changes)))

    for name, value in (("m", 0), ("n", 0), ("k", 0), ("k", config.k_max + 1), ("m", 1 << 24), ("n", 1 << 16)):
        assert start(**{name: value}) == TOO_LARGE
    site = ctypes.pointer(Site())
    assert start(output=2) == NOT_BUILT_IN
    assert start(output=2, pack=site, n=config.n_max + 1) == TOO_LARGE
    assert start(exponent=95) == REJECTED
    for name, what in (("packed_output", {"output": 2, "pack": site}), ("raw_input", {"raw": site}),
                       ("four_over_six", {"raw": ctypes.pointer(Site(four_over_six=1))}),
                       ("channel_codes", {"raw": ctypes.pointer(Site(channel_codes=bytes(16)))})):  # fmt: skip
        kept = getattr(engine, name)
        setattr(engine, name, 0)
        assert start(**what) == NOT_BUILT_IN
        setattr(engine, name, kept)
    assert driver.fgmp_abort(ctypes.byref(engine), 100) == OK


@pytest.mark.long
@pytest.mark.parametrize(("offset", "code"), [(0, NO_ENGINE), (4, OTHER_MAP)])
def test_another_engine(driver, simulated, offset, code):
    simulator, _ = simulated
    wrong = Bus(READ(lambda _, at: simulator.read(at) ^ (at == offset)), WRITE(lambda *_: None), None)
    assert driver.fgmp_open(ctypes.byref(Engine()), wrong) == code


@pytest.fixture(scope="module")
def linux(tmp_path_factory):
    """The program that says which engine is behind a device, and its folder."""
    folder = tmp_path_factory.mktemp("linux")
    assert main(["driver", "--linux", "-o", str(folder)]) == 0
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-DFGMP_UIO_MAIN"]
    for name in ("fgmp_uio", "fgmp_driver"):
        subprocess.run(["c++", "-x", "c", *flags, "-c", f"{name}.c", "-o", f"{name}.o"], cwd=folder, check=True)
    subprocess.run(["c++", "fgmp_uio.o", "fgmp_driver.o", "-o", "fgmp_uio"], cwd=folder, check=True)
    return folder


def says(linux, path):
    done = subprocess.run([linux / "fgmp_uio", path], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_the_engine_behind_a_uio_device(linux, simulated):
    """A file of the registers' size stands for the device: it is mapped in the same way."""
    simulator, config = simulated
    device = linux / "uio0"
    words = {item.offset: simulator.read(item.offset) for item in REGISTERS if item.access == "ro"}
    content = bytearray(0x40000)
    for offset, word in words.items():
        content[offset : offset + 4] = word.to_bytes(4, "little")
    device.write_bytes(content)
    what = f"{config.lanes} lanes, {config.rows} rows, {config.slots} slots, K up to {config.k_max}"
    assert says(linux, device) == (0, f"fgmp engine: {what}, N of packed results up to {config.n_max}\n")
    content[0] ^= 1
    device.write_bytes(content)
    assert says(linux, device) == (1, f"{device}: no fgmp engine\n")
    code, text = says(linux, linux / "nowhere")
    assert (code, text.count("\n")) == (1, 1)
    assert "No such file" in text


def test_waiting_for_the_interrupt(linux):
    """A socket stands for the device: the other end sees the interrupt enabled, and answers how many there were."""
    command = ["c++", "-x", "c", "-std=c99", "-fPIC", "-shared", "fgmp_uio.c", "-o", "uio.so"]
    subprocess.run(command, cwd=linux, check=True)
    library = ctypes.CDLL(str(linux / "uio.so"), use_errno=True)
    registers = (ctypes.c_uint32 * (0x40000 // 4))()
    ours, kernels = socket.socketpair()
    with ours, kernels:
        device = Uio(ours.fileno(), registers)
        assert library.fgmp_uio_wait(ctypes.byref(device), 10) == 0
        assert kernels.recv(100) == (1).to_bytes(4, "little")
        kernels.send((7).to_bytes(4, "little"))
        assert library.fgmp_uio_wait(ctypes.byref(device), 1000) == 1
        word = registers[register("INTERRUPT_ENABLE").offset // 4]
        enabled = [name for bit, (name, _) in enumerate(EVENTS) if word >> bit & 1]
        assert enabled == ["done", "start_rejected", "config_error"]
    device.file = -1
    assert library.fgmp_uio_wait(ctypes.byref(device), 10) == -1
    assert ctypes.get_errno() == errno.EBADF


def test_the_device_tree_binding_names_what_engines_have(linux):
    """Windows, and a DMA for each stream: dt-schema has accepted the file, which is not among the suite's tools."""
    binding = yaml.safe_load((linux / "fgmp,engine.yaml").read_text().split("---\n", 1)[1])
    names = [[one["const"] for one in choice["items"]] for choice in binding["properties"]["dma-names"]["oneOf"]]
    presets = [EngineConfig(lanes=16, weight_streams=count) for count in (1, 2, 4)]
    assert names == [[s.replace("_", "-") for s in (*config.operand_streams, "results")] for config in presets]
    assert binding["properties"]["dmas"] == {"minItems": 3, "maxItems": 6}
    assert f"reg = <0xa0000000 {OUTPUT_SITE + 0x20000:#x}>" in binding["examples"][0]

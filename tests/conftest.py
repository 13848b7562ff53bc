"""Shared by all tests. They run as on a bare machine, whatever this one happens to have: see `_bare`."""

import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fgmp.hdl import design as designs

ROOT = Path(__file__).parent.parent

# On a loaded machine an example may take any time, and so may drawing it.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")

_HIDDEN_TOOLS = {"ccache", "iverilog", "vvp", "yosys", "sta", "verilator", "nextpnr-ecp5", "nextpnr-ice40"}
_HIDDEN_VARIABLES = (
    "PDK_ROOT", "PDK", "VERILATOR_ROOT", "OBJCACHE", "CXX", "CXXFLAGS", "CFLAGS", "LDFLAGS", "MAKEFLAGS", "WAVES",
    "GUI", "COCOTB_RESULTS_FILE", "COCOTB_TEST_MODULES", "RANK", "WORLD_SIZE", "HF_TOKEN",
)  # fmt: skip
_REAL_PATH = os.environ["PATH"]


def _bare(scratch):
    """Hide from this process and its children what a bare machine lacks.

    That is: a home directory, PDKs, a GPU, settings of compilers, and tools that are optional. A test that is about one
    of these tools asks for it by the fixture `machine`.
    """
    # yosys and nextpnr, which are WebAssembly, keep their compiled form there; it takes minutes to make again.
    os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    os.environ["HOME"] = str(scratch / "home")
    (scratch / "home").mkdir()
    for name in _HIDDEN_VARIABLES:
        os.environ.pop(name, None)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf")}
    folders = []
    for index, folder in enumerate(map(Path, _REAL_PATH.split(os.pathsep))):
        if not folder.is_dir():
            continue
        names = {path.name for path in folder.iterdir()}
        if names & _HIDDEN_TOOLS and folder != Path(sys.executable).parent:
            farm = scratch / f"path-{index}"
            farm.mkdir()
            for name in names - _HIDDEN_TOOLS:
                (farm / name).symlink_to(folder / name)
            folders.append(str(farm))
        else:
            folders.append(str(folder))
    os.environ["PATH"] = os.pathsep.join(folders)


_SCRATCH = Path(tempfile.mkdtemp(prefix="fgmp-suite-"))
_bare(_SCRATCH)


def pytest_addoption(parser):
    parser.addoption("--whole-matrix", action="store_true", help="every parameter value, not a part (make lint-matrix)")


def pytest_unconfigure(config):
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_installed_libraries(monkeypatch):
    """No Liberty file is found in the usual places."""
    from fgmp.synth.liberty import find

    monkeypatch.setattr(find, "_USUAL", ())
    monkeypatch.setattr(find, "_PDK_ROOTS", ())


@pytest.fixture
def machine(monkeypatch):
    """Shows a test an optional tool of this machine, or skips it where there is none."""

    def show(tool, fix):
        if shutil.which(tool, path=_REAL_PATH) is None:
            pytest.skip(f"{tool} is optional: {fix}")
        monkeypatch.setenv("PATH", _REAL_PATH)

    return show


def with_long(names, *long):
    """What `parametrize` takes; the parameters in `long` belong to the long tests."""
    return [pytest.param(name, marks=pytest.mark.long) if name in long else name for name in names]


@functools.cache
def build_preset(name):
    """Built once in each process: writing the Verilog of a unit takes seconds."""
    return designs.build_preset(name)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """pytest-xdist fills the cores; torch must not do so once more in each worker."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache():
    """Where compiled simulators are kept between runs."""
    return ROOT / "out" / "simulators"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Every model, quantized and saved in several shards, and its logits before saving."""
    import torch

    from fgmp.quantizer import FGMPConfig, quantize, save

    from .small_models import CONFIGS, MODELS, SAMPLES, logits, make

    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        model = quantize(make(name), FGMPConfig(**CONFIGS[name]), SAMPLES, progress=False)
        torch.save((logits(model, False), logits(model, True)), root / f"{name}.pt")
        save(model, root / name, max_shard_bytes=60_000, base_model="none")
    return root

"""Shared by all tests."""

import functools
import os
from pathlib import Path

import pytest

from fgmp.hdl import verilog

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent


@functools.cache
def build_preset(name):
    """Built once in each process: writing the Verilog of a unit takes seconds."""
    return verilog.build_preset(name)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """pytest-xdist fills the cores; torch must not do so once more in each worker."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache():
    """Where compiled simulators are kept between runs."""
    return ROOT / "out" / "simulators"

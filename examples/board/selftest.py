"""Writes what examples/board/selftest.v needs into a folder: the engine, a layer in ROM, and its golden results.

    python examples/board/selftest.py out/selftest

Then put the folder's .v files into a project for your board, with a clock, a button and three LEDs. `--simulate` runs
it in Verilator instead and prints what the LEDs show.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from fgmp.hdl import build_preset, register, write_design
from fgmp.sim import activation_bytes, result_bytes, tools, uniform_gemm, weight_bytes

_MAIN = """\
#include <cstdio>
#include "Vselftest.h"
int main() {
    VerilatedContext context;
    Vselftest top(&context);
    top.start_n = 1;
    int cycles = 0;
    for (bool busy = true; busy && cycles < 100000; cycles++) {
        top.clk = 0, top.eval();
        top.clk = 1, top.eval();
        busy = cycles < 20 || top.led_busy;
    }
    std::printf("%s after %d cycles\\n", top.led_pass && !top.led_fail ? "pass" : "fail", cycles);
    return !top.led_pass;
}
"""


def beats(data: bytes) -> list[str]:
    """16 bytes a line as hexadecimal {last, keep, data}."""
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        last = start + 16 >= len(data)
        lines.append(f"{int.from_bytes(part, 'little') | ((1 << len(part)) - 1) << 128 | last << 144:037x}")
    return lines


def write(folder: Path) -> None:
    """The engine, the top, the ROMs."""
    design = build_preset("engine-4")
    write_design(design, folder)
    shutil.copy(Path(__file__).with_name("selftest.v"), folder)
    gemm = uniform_gemm(11, 10, 300, 0.7, seed=1)
    writes = [*gemm.register_writes(), (register("CONTROL").offset, 1)]
    roms = {
        "writes": [f"{address:04x}{value & 0xFFFFFFFF:08x}" for address, value in writes],
        "weights": beats(weight_bytes(gemm.weight, design.config, gemm.rows)),
        "activations": beats(activation_bytes(gemm, design.config)),
        "results": beats(result_bytes(gemm, design.config)),
    }
    for name, lines in roms.items():
        (folder / f"{name}.hex").write_text("\n".join(lines) + "\n")
    sizes = [f"`define {name.upper()} 16'd{len(lines)}" for name, lines in roms.items()]
    (folder / "selftest_sizes.vh").write_text("\n".join(sizes) + "\n")


def simulate(folder: Path) -> int:
    """Run it in Verilator; returns 0 if the LED for "pass" lights."""
    (folder / "main.cpp").write_text(_MAIN)
    command = ["verilator", "--cc", "--exe", "--build", "-Wno-fatal", "-j", "2", "--top-module", "selftest"]
    command += ["--Mdir", "build", "selftest.v", "engine_4.v", "fgmp_ram_1r1w.v", "main.cpp"]
    with tools("verilator"):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.run([os.path.join("build", "Vselftest")], cwd=folder, check=False).returncode


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--simulate", action="store_true")
    args = parser.parse_args()
    write(args.folder)
    return simulate(args.folder) if args.simulate else 0


if __name__ == "__main__":
    sys.exit(main())

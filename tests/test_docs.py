"""The documentation's code: what is C compiles, what is Python parses and imports what there is."""

import ast
import importlib
import re
import runpy
import subprocess

import pytest

from fgmp.hdl.driver import write_driver
from fgmp.hdl.engine.registers import c_header

from .conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language):
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{index}")
        for page in PAGES
        for index, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("block", blocks("c"))
def test_c_compiles(block, tmp_path):
    (tmp_path / "engine_registers.h").write_text(c_header())
    write_driver(tmp_path)
    # What the text says is the reader's own.
    around = "#define ENGINE_BASE 0x40000000u\nvoid start_dmas(void);\nvoid wait_for_interrupt(void);\n"
    (tmp_path / "block.c").write_text(around + block)
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-int-to-pointer-cast", "-c", "block.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("python"))
def test_python_parses_and_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fgmp"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module}.{name.name}"


def test_there_is_code_to_test():
    assert len(blocks("c")) >= 1
    assert len(blocks("python")) >= 4


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_pictures_are_what_their_source_draws():
    folder = ROOT / "docs" / "pictures"
    drawn = runpy.run_path(str(folder / "draw.py"))["pictures"]()
    assert {path.name: path.read_text() for path in folder.glob("*.svg")} == drawn

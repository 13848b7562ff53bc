"""The documentation's code: what is C compiles, what is Python parses and imports what there is."""

import ast
import importlib
import re
import runpy
import shutil
import subprocess
import sys

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
    write_driver(tmp_path, litex=True)
    # What the text says is the reader's own.
    around = "#define ENGINE_BASE 0x40000000u\nvoid start_dmas(void);\nvoid wait_for_interrupt(void);\n"
    (tmp_path / "system.h").write_text("void flush_cpu_dcache(void);\n")  # LiteX's
    (tmp_path / "block.c").write_text(around + block)
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-int-to-pointer-cast", "-I.", "-c", "block.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("python"))
def test_python_parses_and_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fgmp":
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


@pytest.mark.long
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    """`make docs`: every page is reached, every reference leads somewhere, the notebook runs."""
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-W", "--keep-going", "docs", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "configurator.html", "notebook.html", "api.html"} <= {page.name for page in pages}
    for page in pages:
        fetched = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(https?:[^\"]+)", page.read_text())
        assert fetched == [], page.name
    api = (tmp_path / "site" / "api.html").read_text()
    for name in ("FGMPConfig", "EngineDriver", "quantize_matrix", "write_design"):
        assert f"{name}" in api
    assert "0 differences" in (tmp_path / "site" / "claims.html").read_text()


@pytest.mark.long
@pytest.mark.optional
def test_a_browser_computes_on_the_configurators_page(machine, tmp_path):
    machine("chromium", "install chromium (Debian: apt install chromium)")
    sync = pytest.importorskip("playwright.sync_api")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-D", "nb_execution_mode=off", "docs", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    with sync.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "configurator.html").as_uri())
        before = page.inner_text("tbody.rate")
        assert "tokens per second" in before
        assert "times as fast as all FP8" in page.inner_text(".speed")
        page.select_option("select[name=streams]", "4")
        assert page.inner_text("tbody.rate") != before
        page.select_option("select[name=k_max]", "1024")
        assert "more than the engine's 1024" in page.inner_text(".problem")
        assert errors == []
        chromium.close()


def test_pictures_are_what_their_source_draws():
    folder = ROOT / "docs" / "pictures"
    drawn = runpy.run_path(str(folder / "draw.py"))["pictures"]()
    measured = {"quality.svg"}  # drawn from figures: tests/test_claims.py
    assert {path.name: path.read_text() for path in folder.glob("*.svg") if path.name not in measured} == drawn

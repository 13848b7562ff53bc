"""Lint, types, layout and import arrows: what must hold before anything else is worth testing."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("golden", "hdl", "sim", "synth")
SOURCES = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
HEAVY = {"torch", "transformers", "amaranth", "cocotb", "matplotlib", "numpy"}


def run(*command, cwd=ROOT):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_lint():
    run(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_format():
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy(tmp_path):
    # The root is the package `fgmp`, whatever the checkout's folder is called.
    package = tmp_path / "fgmp"
    package.mkdir()
    for name in (*PACKAGES, *(path.name for path in ROOT.glob("*.py"))):
        (package / name).symlink_to(ROOT / name)
    config = str(ROOT / "pyproject.toml")
    run(
        sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "fgmp",
        cwd=tmp_path,
    )  # fmt: skip


def imports(path):
    """Absolute module names that a file imports, anywhere in it."""
    package = ["fgmp", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, node.module] if node.module else base)


ROOT_MODULES = {"arguments", "cache", "errors", "files", "processes", ""}
ALLOWED = {
    "golden": {"golden"} | ROOT_MODULES,
    "hdl": {"hdl"} | ROOT_MODULES,
    "sim": {"sim", "hdl", "golden"} | ROOT_MODULES,
    "synth": {"synth", "sim", "hdl", "golden"} | ROOT_MODULES,
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_import_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in PACKAGES, f"{name}: bare import of a package of ours"
        if top != "fgmp":
            assert not (package == "golden" and top == "amaranth")
            assert not (package == "hdl" and top == "torch")
            continue
        inner = rest[0] if rest else ""
        if package == "hdl" and inner == "golden":
            assert rest[1:2] == ["formats"], f"{name}: hdl may import golden.formats only"
            continue
        assert inner in ALLOWED[package], name


def test_ground_floor_imports_no_heavy_module():
    root = [path.name for path in ROOT.glob("*.py")]
    for name in ("golden/formats.py", "golden/exact.py", *root):
        assert not HEAVY.intersection(n.split(".")[0] for n in imports(ROOT / name)), name


@pytest.mark.parametrize("module", ["fgmp.golden.formats", "fgmp.__main__", "fgmp.hdl.verilog"])
def test_hdl_and_command_need_no_torch(module):
    code = f"import {module}, sys; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    run(sys.executable, "-c", code)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_names_what_it_exports(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.name not in {"__init__.py", "bench.py", "axi_bench.py"}:
        assert any(
            isinstance(n, ast.Assign) and n.targets[0].id == "__all__" for n in tree.body if hasattr(n, "targets")
        )


def test_root_package_holds_docstring_and_version_only():
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    assert len(body) == 2
    assert isinstance(body[1], ast.Assign)


def test_every_package_folder_is_packaged():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(["fgmp", *p.parent.relative_to(ROOT).parts]) for p in SOURCES if p.name == "__init__.py"}
    assert listed == found | {"fgmp"}


def test_modules_at_the_root_import_nothing_of_the_packages_at_the_top():
    """They are below all packages; the command's own imports are made when it runs."""
    for path in ROOT.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (node.module or "").split(".")[0] not in PACKAGES, path.name

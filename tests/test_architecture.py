"""Lint, types, layout and import arrows: what must hold before anything else is worth testing."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TREE = Path(__file__).parent.parent
PACKAGES = ("formal", "golden", "hdl", "quantizer", "report", "sim", "synth")
SOURCES = [p for package in PACKAGES for p in sorted((TREE / package).rglob("*.py"))]
HEAVY = {"torch", "transformers", "amaranth", "cocotb", "matplotlib", "numpy"}


def run(*command, cwd=TREE):
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
    for name in (*PACKAGES, *(path.name for path in TREE.glob("*.py"))):
        (package / name).symlink_to(TREE / name)
    config = str(TREE / "pyproject.toml")
    run(
        sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", str(TREE / ".mypy_cache"), "-p", "fgmp",
        cwd=tmp_path,
    )  # fmt: skip


def module_of(path):
    parts = ["fgmp", *path.relative_to(TREE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in [*SOURCES, *TREE.glob("*.py")]}


def imports(path, tree=None):
    """Absolute names of the modules that a file imports, anywhere in it or in `tree`."""
    package = ["fgmp", *path.relative_to(TREE).parent.parts]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            yield from {name if (name := f"{module}.{a.name}") in MODULES else module for a in node.names}


ROOT = {"arguments", "cache", "errors", "faces", "files", "formats", "plots", "processes", "__version__"}
ARROWS = {
    "formal": {"formal", "hdl"},
    "golden": {"golden"},
    "hdl": {"hdl"},
    "quantizer": {"quantizer", "golden"},
    "report": {"report", "synth", "sim", "formal", "hdl", "golden", "quantizer"},
    "sim": {"sim", "formal", "hdl", "golden", "quantizer"},
    "synth": {"synth", "sim", "formal", "hdl", "golden", "quantizer"},
}
"""What a package may import, besides the modules at the root."""

FOREIGN = {
    "formal": {"torch", "transformers"},
    "golden": {"amaranth", "transformers"},
    "hdl": {"torch", "transformers"},
    "quantizer": {"amaranth"},
}
"""Libraries that a package must do without."""

FLOORS = {
    "quantizer": (
        "prices",
        "config",
        "prepare",
        "calibrate",
        "choose",
        "model",
        "study",
        "evaluate",
        "exchange",
        "tinylm",
        "commands",
    ),
}
"""Modules and folders of a package from the ground up: each may import itself and what stands before it."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(TREE).as_posix())
def test_import_arrows(path):
    package = path.relative_to(TREE).parts[0]
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in PACKAGES, f"{name}: bare import of a package of ours"
        assert top not in FOREIGN.get(package, ()), name
        if top == "fgmp" and rest:
            assert rest[0] in ARROWS[package] | ROOT, name


@pytest.mark.parametrize("package", FLOORS)
def test_floors_of_a_package(package):
    floors = FLOORS[package]
    for module, path in MODULES.items():
        if not module.startswith(f"fgmp.{package}."):
            continue
        here = floors.index(module.split(".")[2])
        for name in imports(path):
            if name.startswith(f"fgmp.{package}."):
                assert floors.index(name.split(".")[2]) <= here, f"{module} imports {name}"


def test_no_import_circle():
    """Imports inside functions count: one that only works there hides a circle."""
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def top_of(path):
    return ast.Module([n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)], [])


def test_root_modules_import_no_package():
    """They are below all packages; what the command runs is imported when it runs."""
    for path in TREE.glob("*.py"):
        for name in imports(path, top_of(path)):
            assert not name.startswith(tuple(f"fgmp.{package}" for package in PACKAGES)), path.name


def test_ground_floor_needs_no_heavy_module():
    """Modules at the root may import one inside a function, the reference oracle not even there."""
    for path in TREE.glob("*.py"):
        assert not HEAVY.intersection(name.split(".")[0] for name in imports(path, top_of(path))), path
    oracle = TREE / "golden" / "exact.py"
    ours = {name for name in imports(oracle) if name.startswith("fgmp.")}
    assert ours == {"fgmp.formats"}
    assert not HEAVY.intersection(name.split(".")[0] for name in imports(oracle))


LIGHT = ["fgmp.formats", "fgmp.__main__", "fgmp.hdl.design", *(f"fgmp.{package}" for package in PACKAGES)]


@pytest.mark.parametrize("module", LIGHT)
def test_hdl_command_and_public_faces_need_no_torch(module):
    code = f"import {module}, sys; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    run(sys.executable, "-c", code)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(TREE).as_posix())
def test_every_module_names_what_it_exports(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.name not in {"__init__.py", "bench.py", "axi_bench.py"}:
        assert any(
            isinstance(n, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(n).split("=")[0] for n in tree.body
        )


def test_root_package_holds_docstring_and_version_only():
    body = ast.parse((TREE / "__init__.py").read_text()).body
    assert len(body) == 2
    assert isinstance(body[1], ast.Assign)


def test_every_package_folder_is_packaged():
    listed = set(tomllib.loads((TREE / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(["fgmp", *p.parent.relative_to(TREE).parts]) for p in SOURCES if p.name == "__init__.py"}
    assert listed == found | {"fgmp"}

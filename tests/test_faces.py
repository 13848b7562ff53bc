"""The public faces: what they list is there, old names work for a while, and docs and examples need nothing else."""

import ast
import importlib
import re
import sys
import warnings
from pathlib import Path

import pytest
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

TREE = Path(__file__).parent.parent
PACKAGES = ("golden", "hdl", "quantizer", "sim", "synth")
MOVED = ("FGMPConfig", "FGMPLinear", "Study", "dequantize", "load", "quantize", "save")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_listed_name_is_there(package):
    face = importlib.import_module(f"fgmp.{package}")
    assert len(set(face.__all__)) == len(face.__all__)
    assert set(face.__all__) | {"__doc__", "__name__"} <= set(dir(face))  # what an interpreter completes
    for name in face.__all__:
        value = getattr(face, name)
        assert value is getattr(face, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        face.nothing  # noqa: B018


@pytest.mark.parametrize("name", MOVED)
def test_old_names_of_the_quantizer_work_and_warn(name):
    golden, quantizer = importlib.import_module("fgmp.golden"), importlib.import_module("fgmp.quantizer")
    with pytest.warns(DeprecationWarning, match=f"use fgmp.quantizer.{name}"):
        old = getattr(golden, name)
    assert old is getattr(quantizer, name)


def test_the_old_way_to_register_with_transformers_works_and_warns():
    with pytest.warns(DeprecationWarning, match="register_transformers"):
        _fresh("fgmp.golden.llm.hf")
    assert "fgmp" in AUTO_QUANTIZER_MAPPING


def _fresh(module):
    sys.modules.pop(module, None)
    return importlib.import_module(module)


def imported_names(code):
    """(module, name) of every import from our packages in a piece of Python."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fgmp":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "fgmp")


def snippets():
    for path in sorted([TREE / "README.md", *(TREE / "docs").rglob("*.md"), *TREE.glob("CONTRIBUTING.md")]):
        for code in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            yield path.name, code
    for path in sorted((TREE / "examples").rglob("*.py")):
        yield path.name, path.read_text()


@pytest.mark.parametrize(("where", "code"), list(snippets()))
def test_docs_and_examples_import_from_the_faces_alone(where, code):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module, name in imported_names(code):
            assert module in {f"fgmp.{package}" for package in PACKAGES} | {"fgmp"}, f"{where}: {module}"
            if name and module != "fgmp":
                assert name in importlib.import_module(module).__all__, f"{where}: {name}"

"""The register map in other people's formats, read back by other people's tools."""

import re
import subprocess

import pytest

from fgmp.__main__ import main
from fgmp.hdl.engine import register_files
from fgmp.hdl.engine.register_files import FORMATS, ip_xact, svd, system_rdl
from fgmp.hdl.engine.registers import IDENTIFICATION, INPUT_SITE, MAP_VERSION, OUTPUT_SITE, REGISTERS

OURS = {
    item.name: (item.offset, item.access, {f.name: (f.low, f.low + f.bits - 1) for f in item.fields})
    for item in REGISTERS
}


def access_of(field):
    from systemrdl.rdltypes import AccessType, OnWriteType

    if field.get_property("onwrite") == OnWriteType.woclr:
        return "w1c"
    return {AccessType.r: "ro", AccessType.rw: "rw", AccessType.w: "wo"}[field.get_property("sw")]


def compiled(path, importer=None):
    """What systemrdl-compiler, or PeakRDL's importer, finds: registers by name, and memories."""
    from systemrdl import RDLCompiler
    from systemrdl.node import MemNode, RegNode

    compiler = RDLCompiler()
    if importer is None:
        compiler.compile_file(str(path))
    else:
        importer(compiler).import_file(str(path))
    top = compiler.elaborate().top
    registers, memories = {}, {}
    for node in top.descendants(unroll=True):
        if isinstance(node, RegNode):
            fields = {f.inst_name: (f.low, f.high) for f in node.fields()}
            kinds = {access_of(f) for f in node.fields()}
            assert len(kinds) == 1
            registers[node.inst_name] = node.absolute_address, kinds.pop(), fields
        elif isinstance(node, MemNode):
            memories[node.inst_name] = node.absolute_address, node.size
    return registers, memories, top


SITES = {"INPUT_SITE": (INPUT_SITE, 1 << 16), "OUTPUT_SITE": (OUTPUT_SITE, 1 << 16)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_system_rdl(tmp_path):
    (tmp_path / "map.rdl").write_text(system_rdl())
    registers, memories, top = compiled(tmp_path / "map.rdl")
    assert registers == OURS
    assert memories == SITES
    texts = {node.inst_name: node.get_property("desc") for node in top.registers()}
    assert texts == {item.name: item.text for item in REGISTERS}
    resets = {f"{r.inst_name}.{f.inst_name}": f.get_property("reset") for r in top.registers() for f in r.fields()}
    known = {name: value for name, value in resets.items() if value is not None}
    assert known == {"ID.value": IDENTIFICATION, "VERSION.map": MAP_VERSION}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ip_xact(tmp_path):
    from peakrdl_ipxact import IPXACTImporter

    (tmp_path / "map.xml").write_text(ip_xact())
    registers, memories, _ = compiled(tmp_path / "map.xml", IPXACTImporter)
    assert registers == OURS
    assert {name: place for name, (place, _) in memories.items()} == {n: place for n, (place, _) in SITES.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_svd(tmp_path):
    from cmsis_svd.parser import SVDParser

    (tmp_path / "map.svd").write_text(svd())
    (peripheral,) = SVDParser.for_xml_file(str(tmp_path / "map.svd")).get_device().peripherals
    assert peripheral.base_address == 0
    found = {}
    for item in peripheral.registers:
        clears = item.modified_write_values is not None
        kind = {"read-only": "ro", "read-write": "rw", "write-only": "wo"}[
            str(getattr(item.access, "value", item.access))
        ]
        fields = {f.name: (f.bit_offset, f.bit_offset + f.bit_width - 1) for f in item.fields}
        found[item.name] = item.address_offset, "w1c" if clears else kind, fields
    assert found == OURS


def test_the_c_header_compiles_to_the_same_numbers(tmp_path):
    header = FORMATS["c"]()
    (tmp_path / "fgmp_engine.h").write_text(header)
    names = [f"FGMP_{item.name}" for item in REGISTERS]
    names += [f"FGMP_{i.name}_{f.name.upper()}_MASK" for i in REGISTERS for f in i.fields]
    prints = "".join(f'printf("%u\\n", {name});' for name in names)
    (tmp_path / "t.c").write_text(
        f'#include <stdio.h>\n#include "fgmp_engine.h"\nint main(void) {{{prints}return 0;}}\n'
    )
    subprocess.run(["c++", "-x", "c", "-std=c99", "-Wall", "-Werror", "t.c", "-o", "t"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "t"], capture_output=True, text=True, check=True).stdout.split()
    masks = [(1 << f.bits) - 1 << f.low for item in REGISTERS for f in item.fields]
    assert [int(number) for number in said] == [item.offset for item in REGISTERS] + masks


def test_the_command(capsys, tmp_path, monkeypatch):
    for name in FORMATS:
        out = tmp_path / f"map.{name}"
        assert main(["registers", "--format", name, "-o", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        assert main(["registers", "--format", name]) == 0
        said = capsys.readouterr().out
        assert "RESULT_PACKETS" in said
        # PeakRDL's own file carries the time of its making.
        assert re.sub(r"\d\d:\d\d:\d\d", "", said) == re.sub(r"\d\d:\d\d:\d\d", "", out.read_text())
    assert main(["registers", "--format", "xls"]) == 2
    assert "format: 'xls', expected one of markdown, c, rdl, svd, ipxact" in capsys.readouterr().err

    def missing():
        raise ModuleNotFoundError("No module named 'systemrdl'", name="systemrdl")

    monkeypatch.setitem(register_files.FORMATS, "ipxact", missing)
    assert main(["registers", "--format", "ipxact"]) == 2
    assert "pip install 'fgmp[registers]'" in capsys.readouterr().err

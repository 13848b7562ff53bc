"""Claims: every figure comes from a command, and documents state what was measured and nothing else."""

import json
import re
import shlex

import pytest

from fgmp.__main__ import build_parser, main
from fgmp.errors import DifferenceError, InputError
from fgmp.report.claims import run as claims_run
from fgmp.report.claims.catalogue import CLAIMS, RUNS, TABLES, Run
from fgmp.report.claims.documents import claims_rows, filled, markdown, unmarked
from fgmp.report.claims.publish import DOCUMENTS, draw_quality, points_digest, publish, published
from fgmp.report.claims.run import SCHEMA, figures_of, measure

from .conftest import ROOT


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_state_what_was_measured(name):
    text = (ROOT / name).read_text()
    assert filled(text, published()) == text, "fgmp claims --publish . writes it"
    assert "<!--=" in text


def test_the_readme_has_no_figure_without_a_command():
    assert unmarked((ROOT / "README.md").read_text()) == []


def test_the_picture_is_of_the_figures():
    points = published()["points"]
    assert f"drawn from {points_digest(points)}" in (ROOT / "docs" / "pictures" / "quality.svg").read_text()
    assert points_digest(points) in draw_quality(points)
    moved = {**points, "all refinements": [[0.5, 0.01, 0.001]] * 4}
    assert points_digest(moved) != points_digest(points)


def test_every_claim_and_table_was_measured():
    figures = published()
    assert figures["schema"] == SCHEMA
    assert figures["runs"].keys() == RUNS.keys()
    assert figures["figures"].keys() == {claim.name for claim in CLAIMS}
    assert figures["tables"].keys() == TABLES.keys()
    assert {claim.run for claim in CLAIMS} | {table.run for table in TABLES.values()} | {"refinements"} == RUNS.keys()


def test_no_claim_of_equality_has_a_difference():
    for name in ("units-compared", "engine-compared", "model-compared"):
        assert re.fullmatch(r"[\d,]+ results, 0 differences", published()["figures"][name])


@pytest.mark.parametrize("run", RUNS.values(), ids=list(RUNS))
def test_commands_are_commands(run):
    for command in run.commands:
        words = run.words(command, out="out", liberty="library")
        assert words[0] == "fgmp"
        build_parser().parse_args(words[1:])
    assert "--json" in run.commands[-1]


def test_marks_are_filled_and_nothing_else():
    figures = {"figures": {"a": "1.5 %"}, "tables": {"t": [["x", "y"], ["1", ""]]}}
    text = "before 3 % <!--=a-->old<!--/--> after\n<!--=table t-->\nold\n<!--/-->\n"
    expected = "before 3 % <!--=a-->1.5 %<!--/--> after\n<!--=table t-->\n| x | y |\n| --- | --- |\n| 1 | |\n<!--/-->\n"
    assert filled(text, figures) == expected
    assert filled(expected, figures) == expected
    with pytest.raises(KeyError):
        filled("<!--=b-->x<!--/-->", figures)


def test_figures_without_marks_are_found():
    assert unmarked("saves 20.7 % and <!--=a-->3 %<!--/-->; `5 %`, [x](y%205 %)\n```\n6 MHz\n```\n85,000 cycles/s") == [
        "20.7 %",
        "85,000 cycles/s",
    ]
    assert unmarked("16 weights, 3 GB of disk, Python 3.11") == []


def test_markdown_keeps_its_columns():
    rows = [line.count("|") for line in markdown(claims_rows(published())).splitlines()]
    assert set(rows) == {5}


@pytest.fixture
def small(monkeypatch):
    """One run that is quick, and a claim and a table of it."""
    run = Run("small", ["fgmp cache", "fgmp registers --format markdown -o {out}/r.md", "fgmp cache --json"], 0.1)
    monkeypatch.setattr(claims_run, "RUNS", {"small": run})
    monkeypatch.setattr(claims_run, "CLAIMS", ())
    monkeypatch.setattr(claims_run, "TABLES", {})
    return run


def test_what_was_run_is_not_run_again(small, tmp_path):
    said = []
    figures = measure(["small"], tmp_path, None, again=False, say=said.append)
    assert said == ["small: about 0.1 minutes"]
    assert figures["runs"]["small"]["commands"][1] == "fgmp registers --format markdown -o out/claims/r.md"
    assert (tmp_path / "work" / "small" / "r.md").is_file()
    (tmp_path / "work" / "small" / "r.md").write_text("of an earlier run")
    assert "printed" not in figures["runs"]["small"]
    kept = json.loads((tmp_path / "small.json").read_text())
    assert "limit_bytes" in kept["printed"]
    measure(["small"], tmp_path, None, again=False, say=said.append)
    assert len(said) == 1
    assert (tmp_path / "work" / "small" / "r.md").read_text() == "of an earlier run"
    # Again is from the beginning, whatever commands would continue from.
    measure(["small"], tmp_path, None, again=True, say=said.append)
    assert len(said) == 2
    assert (tmp_path / "work" / "small" / "r.md").read_text() != "of an earlier run"


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"a": 1}', '{"commands": []}'])
def test_damaged_output_is_one_clear_line(small, tmp_path, capsys, content):
    (tmp_path / "small.json").write_text(content)
    assert main(["claims", "small", "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "small.json: not what a run leaves, expected JSON of one" in error


def test_what_is_missing_is_said_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims_run, "_run", lambda *_: pytest.fail("ran"))
    assert main(["claims", "demo", "energy", "-o", str(tmp_path)]) == 2
    assert "liberty: none found" in capsys.readouterr().err
    assert main(["claims", "demo", "-o", str(tmp_path), "--publish", str(tmp_path)]) == 2
    assert "expected a checkout" in capsys.readouterr().err


def test_commands_that_fail_leave_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setitem(claims_run.RUNS, "small", Run("small", ["fgmp verilog nosuch --json"], 0.1))
    with pytest.raises(InputError, match="claims: fgmp verilog nosuch --json: exit code 2, expected 0"):
        measure(["small"], tmp_path, None, again=False, say=lambda _: None)
    assert not (tmp_path / "small.json").exists()
    with pytest.raises(InputError, match="run: 'other', expected one of small"):
        measure(["other"], tmp_path, None, again=False, say=lambda _: None)


def test_differences_are_no_figure(small, tmp_path, monkeypatch):
    done = claims_run.subprocess.CompletedProcess([], 1, stdout="{}")
    monkeypatch.setattr(claims_run.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(DifferenceError, match="results differ"):
        measure(["small"], tmp_path, None, again=False, say=lambda _: None)


def test_the_command(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["claims", "--list"]) == 0
    listed = capsys.readouterr().out
    assert len(listed.splitlines()) == len(RUNS)
    assert main(["claims", "small", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == SCHEMA
    assert main(["claims", "small", "--publish", str(tmp_path)]) == 2
    assert "expected a checkout of the repository" in capsys.readouterr().err
    assert main(["claims", "--liberty", "nowhere.lib"]) == 2
    assert "Liberty file nowhere.lib: not found" in capsys.readouterr().err


def test_publishing_writes_documents_and_picture(tmp_path):
    (tmp_path / "report" / "claims").mkdir(parents=True)
    (tmp_path / "report" / "claims" / "catalogue.py").write_text("")
    for name in DOCUMENTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text().replace("<!--=energy-->", "<!--=energy-->0"))
    figures = published()
    written = {path.relative_to(tmp_path).as_posix() for path in publish(figures, tmp_path)}
    assert {"report/claims/claims.json", "docs/pictures/quality.svg"} <= written
    for name in DOCUMENTS:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    assert json.loads((tmp_path / "report" / "claims" / "claims.json").read_text()) == figures
    assert publish(figures, tmp_path) == []


def test_figures_need_all_of_a_run():
    with pytest.raises(InputError, match="printed something else than its claims are taken from"):
        figures_of({"proofs": {"printed": {}}})
    assert shlex.split(RUNS["demo"].commands[0])[:2] == ["fgmp", "demo"]

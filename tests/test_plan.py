"""The verification plan: complete, true, and what the page shows."""

import ast

import pytest

from fgmp.formal.properties import PROPERTIES
from fgmp.hdl.config import PRESETS, SelectorConfig
from fgmp.hdl.engine.registers import COUNTERS, EVENTS, REGISTERS
from fgmp.sim import plan as plans
from fgmp.sim.engine.scenarios import SCENARIOS
from fgmp.sim.lane_campaigns import lane_campaigns, pair_campaigns
from fgmp.sim.plan import markdown, plan
from fgmp.sim.selector_campaigns import selector_campaigns

from .conftest import ROOT, build_preset

ROWS = list(plan())


def test_nothing_is_without_a_row():
    subjects = {(row.kind, row.subject) for row in ROWS}
    assert len(subjects) == len([row for row in ROWS if row.kind != "statement"]) + len(
        {row.subject for row in ROWS if row.kind == "statement"}
    )
    assert {s for k, s in subjects if k == "preset"} == set(PRESETS)
    assert {s for k, s in subjects if k == "event"} == {name for name, _ in EVENTS}
    assert {s for k, s in subjects if k == "counter"} == {name for name, _ in COUNTERS}
    counters = {name.upper() for name, _ in COUNTERS}
    assert {s for k, s in subjects if k == "register"} == {
        f"{r.name}.{f.name}" for r in REGISTERS for f in r.fields if r.name not in counters
    }
    assert {s.partition(" ")[0] for k, s in subjects if k == "parameter"} == {"lane", "selector", "engine"}


@pytest.mark.parametrize("table", ["_PRESETS", "_FIELDS", "_EVENT_HOLDERS", "_COUNTER_HOLDERS"])
def test_a_new_thing_without_a_holder_is_an_error(table, monkeypatch):
    known = dict(getattr(plans, table))
    del known[next(iter(known))]
    monkeypatch.setattr(plans, table, known)
    with pytest.raises(KeyError):
        list(plan())


def test_every_holder_exists():
    lane = build_preset("lane-1k")
    campaigns = {c.name for c in lane_campaigns(lane, count=4) + pair_campaigns(lane, share=997)}
    selector = build_preset("selector-flat")
    assert isinstance(selector.config, SelectorConfig)
    campaigns |= {c.name for c in selector_campaigns(selector, count=4)}
    tests = {}
    for row in ROWS:
        assert row.held_by, row
        for holder in row.held_by:
            kind, _, name = holder.partition(": ")
            if kind == "scenario":
                assert name in SCENARIOS, holder
            elif kind == "campaign":
                assert name in campaigns, holder
            elif kind == "proof":
                assert name in {item.name for item in PROPERTIES}, holder
            else:
                file, _, function = holder.partition("::")
                if file not in tests:
                    tree = ast.parse((ROOT / "tests" / file).read_text())
                    tests[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
                assert function in tests[file], holder


def test_the_page_shows_it():
    assert markdown() in (ROOT / "docs" / "verification.md").read_text(), "write it: python -m fgmp.sim.plan"

"""The page of runs: every kind of document has a section, nothing leaves the page, and browsers show what it says."""

import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.golden import pack, quantize_matrix, save_packed, unpack
from fgmp.quantizer.choose.joint import SCORE_EDGES
from fgmp.quantizer.evaluate.comparison import Comparison
from fgmp.report import render_page, report
from fgmp.report.build import section_of
from fgmp.report.elements import PrecisionMaps, Section, Table, Text
from fgmp.report.picture import draw
from fgmp.report.precision_maps import MOST_BYTES, MOST_MAPS, precision_maps
from fgmp.report.sections import SECTIONS
from fgmp.report.sections.models import packed_section

from .conftest import ROOT

ESTIMATE = {"value": 9.5, "error": 0.25}
ROW = {
    "name": "float32", "weight_fp4_share": None, "activation_fp4_share": None, "perplexity": ESTIMATE,
    "degradation_percent": None, "kl": None, "recovered": None, "weight_bytes": 400, "bits_per_weight": 32.0,
    "weight_bytes_vs_fp8": 4.0,
}  # fmt: skip
MIXED = {
    **ROW, "name": "FGMP 0.7", "weight_fp4_share": 0.7, "activation_fp4_share": 0.6,
    "kl": {"value": 0.02, "error": None}, "degradation_percent": ESTIMATE, "recovered": ESTIMATE,
    "bits_per_weight": 5.6,
}  # fmt: skip
EVALUATION = {
    "schema": "fgmp-evaluate/1", "window": 512, "stride": 512, "windows": 8, "rows": [ROW, MIXED], "tokens": 4088,
    "kl_above": {}, "degradation_against": "float32", "against": {},
}  # fmt: skip


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.references, self.ids, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text.append(data)


def page_of(folder):
    return Page(report([folder]))


@pytest.fixture(scope="session")
def packed():
    """Two tensors with FP4 and FP8 blocks."""
    torch.manual_seed(1)
    return {
        name: pack(quantize_matrix(torch.randn(shape), torch.rand(shape[0], shape[1] // 16) < 0.4))
        for name, shape in (("layers.0.q_proj", (24, 80)), ("layers.1.down_proj", (5, 320)))
    }


def test_nothing_is_fetched_and_identifiers_are_unique(tmp_path, packed):
    save_packed(tmp_path / "packed.safetensors", packed)
    (tmp_path / "evaluate.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "others.json").write_text('{"schema": "theirs"}')
    (tmp_path / "broken.json").write_text("{")
    page = page_of(tmp_path)
    assert all(re.fullmatch(r"#[\w-]+", reference) for reference in page.references), page.references
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert "url(http" not in report([tmp_path])
    assert "FGMP 0.7" in page.text


def test_what_runs_say_is_text_and_never_markup():
    spoiled = json.loads(json.dumps(EVALUATION).replace("FGMP 0.7", "<script>alert(1)</script>"))
    section = section_of("fgmp-evaluate/1", spoiled, "here")
    page = render_page("<b>title</b>", [Section("<i>", "<u>", [("<s>", "</dl>")], section.parts)])
    assert page.count("<script>") == 1
    for tag in ("<b>title", "<i>", "<u>", "<s>", "</dl></d"):
        assert tag not in page, tag
    assert "&lt;script&gt;alert" in page


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 2**32 - 1))
def test_exact_maps_hold_every_block(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.3
    (made,) = precision_maps("", {"w": shape}, [mask]).maps
    bits = np.unpackbits(np.frombuffer(base64.b64decode(made.data), np.uint8), bitorder="little", count=mask.size)
    assert made.cell == (1, 1)
    assert (bits.reshape(shape) == mask).all()
    assert made.fp8_share == pytest.approx(mask.mean())


def test_maps_of_large_models_hold_shares_and_stay_small(monkeypatch):
    monkeypatch.setattr("fgmp.report.precision_maps.MOST_BYTES", 10_000)
    shapes = {"a": (1000, 300), "b": (77, 4000), "c": (3, 1)}
    masks = [np.random.default_rng(index).random(shape) < 0.5 for index, shape in enumerate(shapes.values())]
    maps = precision_maps("", shapes, masks).maps
    for made, mask in zip(maps, masks, strict=True):
        rows, blocks = made.cell
        assert rows * blocks > 1
        cells = np.frombuffer(base64.b64decode(made.data), np.uint8)
        expected = [
            np.rint(255 * mask[r : r + rows, b : b + blocks].mean())
            for r in range(0, mask.shape[0], rows)
            for b in range(0, mask.shape[1], blocks)
        ]
        assert (cells == expected).all()
    assert sum(len(base64.b64decode(made.data)) for made in maps) < 20_000


def test_a_model_of_seven_billion_fits_into_a_page():
    shapes = {f"layers.{i // 7}.{'qkvogud'[i % 7]}": (4096, 256) if i % 7 < 4 else (11008, 256) for i in range(224)}
    mask = np.zeros((11008, 256), bool)
    maps = precision_maps("", shapes, (mask[: shape[0]] for shape in shapes.values()))
    page = render_page("large", [Section("maps", parts=[maps])])
    assert len(page) < 5_000_000
    assert MOST_BYTES // 2 < sum(len(base64.b64decode(made.data)) for made in maps.maps) <= MOST_BYTES


def test_experts_by_the_thousand_fit_into_a_page():
    shapes = {f"layers.{i // 192}.experts.{i // 3 % 64}.{'gud'[i % 3]}_proj": (1024, 128) for i in range(3072)}
    maps = precision_maps("maps", shapes, (np.zeros((1024, 128), bool) for _ in shapes))
    assert len(maps.maps) == MOST_MAPS
    assert maps.caption == "maps, the first 1,000 of 3,072"
    assert len(render_page("experts", [Section("maps", parts=[maps])])) < 5_000_000


def test_what_a_folder_holds_besides_is_named(tmp_path):
    (tmp_path / "evaluate.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "cut.json").write_text("{")
    (tmp_path / "later.json").write_text('{"schema": "fgmp-simulate/99"}')
    (tmp_path / "nowhere.json").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.json")
    page = report([tmp_path])
    assert "Passed over" in page
    assert "cut.json, later.json" in page
    assert "pipe.json" not in page


def test_what_runs_of_claims_left_is_told(tmp_path):
    run = {"commands": ["fgmp evaluate"], "seconds": 3, "printed": EVALUATION}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert "FGMP 0.7" in report([tmp_path])
    assert "FGMP 0.7" in report([tmp_path / "run.json"])


def test_wide_matrices_are_not_larger_than_a_canvas():
    (made,) = precision_maps("", {"head": (200_000, 2)}, [np.zeros((200_000, 2), bool)]).maps
    assert 200_000 / made.cell[0] <= 16_384


def test_packed_section_tells_shares(packed, tmp_path):
    save_packed(tmp_path / "packed.safetensors", packed)
    maps = packed_section(tmp_path / "packed.safetensors").parts[0]
    assert isinstance(maps, PrecisionMaps)
    assert len(maps.maps) == len(packed)
    for made in maps.maps:
        fp8 = unpack(packed[made.name]).fp8
        assert made.shape == tuple(fp8.shape)
        assert made.fp8_share == pytest.approx(fp8.double().mean().item())


def test_pictures_take_the_colors_of_the_page():
    picture = draw("two <lines>", lambda axes: axes.plot([0, 1], [1, 0], color="#000000"))
    assert "currentColor" in picture.svg
    assert "#000000" not in picture.svg
    assert "two &lt;lines&gt;" in picture.svg
    assert "<!DOCTYPE" not in picture.svg


def test_two_pictures_share_no_identifier():
    pictures = [draw("same", lambda axes, end=end: axes.plot([0, end], [0, 1], marker="o")) for end in (1, 2)]
    page = Page(render_page("", [Section("s", parts=pictures)]))
    assert len(set(page.ids)) == len(page.ids)


def test_comparison_comes_back_from_json():
    once = Comparison.from_json(EVALUATION)
    assert once.as_json() == {k: v for k, v in EVALUATION.items() if k in once.as_json()}


@pytest.mark.parametrize("schema", sorted(SECTIONS))
def test_a_file_that_was_cut_is_one_clear_line(schema):
    with pytest.raises(InputError, match=f"report here: not a whole {schema} .*expected what its command prints"):
        section_of(schema, {"schema": schema}, "here")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"schema": "nothing/1"}', "schema 'nothing/1', expected one of"),
        ("x.json", "{", "not JSON"),
        ("x.json", "[3]", "holds 3, expected an object with a schema"),
        ("x.json", "[]", "holds nothing to tell of"),
        ("x.safetensors", "", "x.safetensors"),
        (None, None, "not found, expected a file or folder"),
    ],
)
def test_bad_paths_are_one_clear_line(tmp_path, capsys, name, content, message):
    path = tmp_path / (name or "nowhere")
    if name:
        path.write_text(content)
    assert main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "r.html").exists()


def test_an_empty_folder_holds_nothing(tmp_path):
    with pytest.raises(InputError, match="holds nothing to tell of"):
        report([tmp_path])


def test_every_command_with_a_section_is_on_the_page_of_the_docs():
    text = (ROOT / "docs" / "report.md").read_text()
    for schema in SECTIONS:
        command = schema.removeprefix("fgmp-").split("/")[0]
        words = {
            "model": "quantized folder", "synth-asic": "synth asic", "synth-fpga": "fpga", "campaign": "--campaign",
            "simulate-model": "--model",
        }  # fmt: skip
        assert words.get(command, f"fgmp {command}") in text


def test_score_histograms_add_up_to_all_blocks():
    assert len(SCORE_EDGES) == len(set(SCORE_EDGES))
    assert 0.0 in SCORE_EDGES  # the threshold is an edge


CHROMIUM = "install chromium (Debian: apt install chromium)"


@pytest.fixture
def browser(machine):
    """A page in headless Chromium, with what it asked for and complained of."""
    machine("chromium", CHROMIUM)
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.optional
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_maps_and_fetches_nothing(browser, tmp_path, packed, theme):
    save_packed(tmp_path / "packed.safetensors", packed)
    (tmp_path / "evaluate.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "page.html").write_text(report([tmp_path]))
    page = browser.new_page(color_scheme=theme)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "page.html").as_uri())
    assert asked == [(tmp_path / "page.html").as_uri()]
    assert errors == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 246, 248)", "dark": "rgb(20, 24, 28)"}[theme]
    # The pixels of a map are the blocks of the tensor.
    for index, (name, tensor) in enumerate((name, unpack(part)) for name, part in packed.items()):
        pixels = page.evaluate(
            "index => { const c = document.querySelectorAll('.map canvas')[index];"
            "return [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; }",
            index,
        )
        width, height, data = pixels
        assert (width, height) == tuple(tensor.fp8.shape), name
        red = np.array(data).reshape(height, width, 4)[:, :, 0].T
        assert len(np.unique(red)) == 2
        assert ((red == red[tensor.fp8.numpy()].max()) == tensor.fp8.numpy()).all()
    # By keyboard: open, zoom, read, close, and turn the colors.
    page.focus(".map")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('zoom').open")
    for key in ("+", "+", "ArrowRight", "ArrowDown", "-"):
        page.keyboard.press(key)
    said = page.inner_text("#zoom-cell")
    found = re.fullmatch(r"output channel (\d+), block (\d+) \(input channels \d+ to \d+\): (FP4|FP8)", said)
    assert found, said
    first = unpack(packed["layers.0.q_proj"]).fp8
    assert (found[3] == "FP8") == bool(first[int(found[1]), int(found[2])])
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('zoom').open")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    assert errors == []
    assert len(page.screenshot(full_page=True)) > 20_000
    assert len(asked) == 1


def test_tables_keep_their_shape():
    table = Table(["a", "b"], [["1", "2"], ["3", "4"]], "c")
    page = render_page("t", [Section("s", parts=[table, Text("words")], good=False)])
    assert page.count("<td") == 4
    assert page.count("✗ failed") == 1

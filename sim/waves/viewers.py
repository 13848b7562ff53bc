"""Files that open a unit's view in GTKWave and Surfer, with the tables that name codes."""

import io
import shlex
from pathlib import Path

from vcd.gtkw import GTKWSave, make_translation_filter

from ...hdl.design import Design
from .decoders import DECODERS, Decoder
from .view import Row, View, make_view

__all__ = ["opening_lines", "view_files", "view_folder"]

_SURFER_FORMS = {"hex": "Hexadecimal", "signed": "Signed"}
_SURFER_MAPPINGS = Path(".surfer", "mappings")
"""Where Surfer looks for mappings, below the folder that it is started in."""


def view_folder(waves: Path) -> Path:
    """The folder of the view of the waveforms in a file."""
    return waves.with_name(f"{waves.stem}.view")


def view_files(design: Design, scope: str | None = None) -> dict[str, str]:
    """Names and texts of a view's files: SystemVerilog, a GTKWave save file, a Surfer command file, decoders.

    `scope` is the path of the unit in the waveforms, "TOP." and its name as Verilator has it.
    """
    view = make_view(design)
    where = scope or f"TOP.{design.name}"
    used = {row.form: DECODERS[row.form] for row in view.rows if row.form in DECODERS}
    return {
        f"{design.name}_view.sv": view.verilog,
        f"{design.name}.gtkw": _gtkwave(view, where),
        f"{design.name}.sucl": _surfer(view, where),
        **{f"gtkwave/{name}.txt": _gtkwave_filter(decoder) for name, decoder in used.items()},
        **{f"{_SURFER_MAPPINGS}/{name}.txt": _surfer_mapping(decoder) for name, decoder in used.items()},
    }


def opening_lines(waves: Path, unit: str) -> list[str]:
    """The commands that open a recording of a unit with its view; none for activities, which no viewer shows."""
    if waves.suffix == ".saif":
        return []
    place = shlex.quote(str(view_folder(waves)))
    file = shlex.quote(f"../{waves.name}")
    return [
        f"  (cd {place} && gtkwave {file} {unit}.gtkw)",
        f"  (cd {place} && surfer {file} --command-file {unit}.sucl)",
    ]


def _gtkwave(view: View, scope: str) -> str:
    text = io.StringIO()
    save = GTKWSave(text)
    save.signals_width(300)
    for group in view.groups:
        with save.group(group.title, closed=group.closed):
            for row in group.rows:
                form = row.form if row.form in ("hex", "signed", "real") else "hex"
                # GTKWave knows a vector by its range; it tells from the waveforms whether it is one.
                name = f"{scope}.{row.path}" + (f"[{row.width - 1}:0]" if row.width > 1 else "")
                table = f"gtkwave/{row.form}.txt" if row.form in DECODERS else None
                # Right-justified, as is the default here: otherwise the first digit is of the first four bits.
                save.trace(name, alias=_label(row), datafmt=form, translate_filter_file=table)
    return text.getvalue()


def _label(row: Row) -> str:
    return row.path.rpartition(".")[2]


def _gtkwave_filter(decoder: Decoder) -> str:
    return make_translation_filter(list(decoder.texts.items()), "hex", decoder.bits) + "\n"


def _surfer(view: View, scope: str) -> str:
    """First all items, then their formats: Surfer's letters for an item depend on how many there are."""
    items: list[tuple[str, str | None]] = []
    for group in view.groups:
        items.append((f"divider_add {group.title}", None))
        for row in group.rows:
            form = row.form if row.form in DECODERS else _SURFER_FORMS.get(row.form)
            items.append((f"variable_add {scope}.{row.path}", form))
    lines = [command for command, _ in items]
    for index, (_, form) in enumerate(items):
        if form is not None:
            lines += [f"item_focus {_surfer_item(index, len(items))}", f"item_set_format {form}"]
    return "\n".join([*lines, "item_unfocus", "zoom_fit", ""])


def _surfer_item(index: int, count: int) -> str:
    """Surfer's name of an item: hexadecimal digits as letters from a to p, as many as the number of items has."""
    digits = len(f"{count:x}")
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{index:0{digits}x}")


def _surfer_mapping(decoder: Decoder) -> str:
    rows = [f"0x{value:x} {text}" for value, text in decoder.texts.items()]
    return "\n".join([f"Name = {decoder.name}", f"Bits = {decoder.bits}", *rows, ""])

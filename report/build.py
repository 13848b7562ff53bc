"""From what runs wrote to a page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..golden.schema import printable
from .documents import FOLDER, PACKED, PASSED, Document, find_documents
from .elements import Section, Text
from .page import render_page
from .sections import SECTIONS
from .sections.models import folder_section, packed_section

__all__ = ["report", "section_of"]


def report(paths: Sequence[Path], title: str | None = None) -> str:
    """The HTML page of all that `paths` hold: JSON of commands, quantized folders, packed files, or folders of those.

    Raises InputError for a path that holds nothing of these, and for a file that is not whole.
    """
    documents = find_documents(paths, list(SECTIONS))
    return render_page(title or f"fgmp: {', '.join(path.resolve().name for path in paths)}", _sections(documents))


def _sections(documents: Sequence[Document]) -> list[Section]:
    made = []
    passed = [document.source for document in documents if document.kind == PASSED]
    for document in documents:
        if document.kind == PASSED:
            continue
        if document.kind == FOLDER:
            section = folder_section(document.content)
        elif document.kind == PACKED:
            section = packed_section(document.content)
        else:
            section = section_of(document.kind, document.content, document.source)
        made.append(replace(section, source=document.source))
    if passed:
        made.append(Section("Passed over", parts=[Text(f"Of no schema that is known here: {', '.join(passed)}.")]))
    return made


def section_of(schema: str, content: Mapping[str, Any], where: str) -> Section:
    """The section of one JSON document. Raises InputError, naming `where`, if it is not whole."""
    try:
        return SECTIONS[schema](content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # Whatever is missing from a file that was cut or edited, or is of another kind than its command writes.
        raise InputError(
            f"report {where}: not a whole {schema} ({type(error).__name__}: {printable(str(error))}), expected what "
            "its command prints with --json"
        ) from None

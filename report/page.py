"""One HTML page that needs nothing else: styles, script and pictures are inside, and nothing is fetched."""

from collections.abc import Sequence
from importlib.resources import files

from markupsafe import Markup

from .. import __version__
from .elements import Section

__all__ = ["render_page"]


def render_page(title: str, sections: Sequence[Section]) -> str:
    """The page of `sections` as HTML. What comes from runs is text in it, never markup."""
    from jinja2 import Environment, StrictUndefined

    own = {path.name: path.read_text("utf-8") for path in (files(__package__) / "page_files").iterdir()}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.tests["of_kind"] = lambda part, kind: type(part).__name__ == kind
    template = environment.from_string(own["page.html"])
    return template.render(
        title=title,
        sections=sections,
        version=__version__,
        css=Markup(own["page.css"]),
        script=Markup(own["page.js"]),
        verdict=_verdict,
    )


def _verdict(good: bool | None) -> Markup:
    if good is None:
        return Markup("")
    return Markup(' <span class="{}">{}</span>').format("good" if good else "bad", "✓ passed" if good else "✗ failed")

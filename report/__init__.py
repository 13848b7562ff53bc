"""What runs found, for people: one HTML page of any runs, and the demo that ends in one.

The topmost package: it may import all others, and none imports it.
"""

from ..faces import lazy

_HOMES = {
    "render_page": "page",
    "report": "build",
}

__all__ = ["render_page", "report"]

__getattr__, __dir__ = lazy(__name__, _HOMES)

"""What a page tells of each kind of run: one function for each schema, from JSON data to a section."""

from collections.abc import Callable, Mapping
from typing import Any

from ..elements import Section
from . import models, silicon, simulation

__all__ = ["SECTIONS"]

SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], Section]] = {
    **models.SECTIONS,
    **simulation.SECTIONS,
    **silicon.SECTIONS,
}
"""By schema. What a function misses in its data it raises as KeyError, TypeError or ValueError."""

"""Levels of theory: what an energy was computed by. Energies of different levels do not compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Level(NamedTuple):
    """What makes two energies comparable; they are only where both strings are equal."""

    theory: str  # such as "PBE and PBE+U"
    corrections: str  # such as "MaterialsProject2020Compatibility"; "none" where there are none


def one_level(levels: Iterable[Level], where: str = "energies") -> Level:
    """The level that all of them share; energies of different levels may not be mixed."""
    levels = [Level(*level) for level in levels]
    if not levels:
        raise ValueError(f"{where}: no level of theory was given")
    for level in levels[1:]:
        for what, first, other in zip(Level._fields, levels[0], level):
            if first != other:
                raise ValueError(f"{where}: {what} {first!r} and {other!r} do not compare")
    return levels[0]

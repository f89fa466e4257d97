"""Names of structure types that symmetry alone decides, and Pearson symbols.

Only types without a free coordinate are named (the few with a free cell edge ratio are told so): space group and
occupied Wyckoff positions are then the whole structure. Everything else has no name here, which says nothing about
whether it is known.
"""

from __future__ import annotations

import numpy as np

from crysjax.crystallography.standard_cells import Conventional

TYPES: dict[tuple[int, str], str] = {
    (number, letters): name
    for name, number, settings in (
        ("copper (fcc)", 225, "a|b"),
        ("tungsten (bcc)", 229, "a"),
        ("magnesium (hcp, by its symmetry)", 194, "c|d"),
        ("diamond", 227, "a|b"),
        ("rock salt", 225, "a b"),
        ("cesium chloride", 221, "a b"),
        ("zinc blende", 216, "a c|a d|b c|b d"),
        ("fluorite", 225, "a c|b c"),
        ("cubic perovskite", 221, "a b c|a b d"),
        ("rhenium trioxide", 221, "a d|b c"),
        ("Cu3Au", 221, "a c|b d"),
        ("cuprite", 224, "a b|a c"),
        ("cubic Laves phase (MgCu2)", 227, "a d|b c"),
        ("Heusler (full)", 225, "a b c"),
        ("Heusler (half)", 216, "a b c|a b d|a c d|b c d"),
    )
    for letters in settings.split("|")
}
"""(space group, Wyckoff letters in alphabetical order, one element each) -> name."""

FAMILIES = ((2, "a"), (15, "m"), (74, "o"), (142, "t"), (194, "h"), (230, "c"))


def type_name(cell: Conventional) -> str:
    """The name of the structure type, "" where there is none in `TYPES`."""
    held: dict[int, set[str]] = {}
    for z, letter in zip(cell.numbers.tolist(), cell.wyckoff.tolist()):
        held.setdefault(z, set()).add(letter)
    if any(len(letters) > 1 for letters in held.values()) or len(np.unique(cell.orbit)) != len(held):
        return ""
    return TYPES.get((cell.number, " ".join(sorted(letter for letters in held.values() for letter in letters))), "")


def pearson(cell: Conventional) -> str:
    """The Pearson symbol: crystal family, centering (S for one pair of faces) and atoms in the conventional cell."""
    family = next(letter for last, letter in FAMILIES if cell.number <= last)
    centering, atoms = cell.symbol[0], len(cell.numbers)
    if centering == "R":  # counted in the rhombohedral cell
        atoms //= 3
    return f"{family}{'S' if centering in 'ABC' else centering}{atoms}"

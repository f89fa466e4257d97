"""The 530 settings of the 230 space groups, spglib's table by Hall number: symbols and operations, no crystal asked.

Crystals are asked about through `crystallography.symmetry_finder` alone.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

SETTINGS = 530


@lru_cache(maxsize=1)
def table() -> dict[int, Any]:
    """spglib's description of each setting by its Hall number."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib is changing how it reports errors
        return {hall: spglib.get_spacegroup_type(hall) for hall in range(1, SETTINGS + 1)}


@lru_cache(maxsize=1)
def standard() -> dict[int, int]:
    """Space group number -> the Hall number of its standard setting: origin choice 2 where there are two."""
    kinds = dict(reversed(table().items()))
    first = {kind.number: hall for hall, kind in kinds.items()}
    return first | {kind.number: hall for hall, kind in kinds.items() if kind.choice == "2"}


def operations(hall: int) -> dict[str, Any]:
    """`rotations` (g, 3, 3) and `translations` (g, 3) of a setting."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return spglib.get_symmetry_from_database(hall)


def symbol(hall: int) -> str:
    """Hermann-Mauguin symbol of a setting, with its origin choice or axes where there are several: `F d -3 m :2`."""
    kind = table()[hall]
    choice = f" :{kind.choice}" if kind.choice in ("1", "2", "H", "R") else ""
    return kind.international.split("=")[0].strip().replace("_", "") + choice

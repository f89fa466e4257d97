"""Common oxidation states of the elements, for the charge neutrality of compositions."""

from __future__ import annotations

from functools import lru_cache

from crysjax.chemistry.elements import SYMBOLS


@lru_cache(maxsize=1)
def common_states() -> dict[int, tuple[int, ...]]:
    """pymatgen's common oxidation states by atomic number; elements without any (He, Ne, ...) are left out."""
    from pymatgen.core import Element

    found = {z: tuple(int(q) for q in Element(symbol).common_oxidation_states) for z, symbol in enumerate(SYMBOLS, 1)}
    return {z: states for z, states in found.items() if states}

"""Which crystals can be asked about at all: the limits, why they are where they are, and the words for what is wrong.

Readers, spglib's wrapper, physics and evaluation ask here; `physics.sound` is the same inside `jit`.
"""

from __future__ import annotations

import numpy as np

LEAST_VOLUME_ANGSTROM3 = 0.1
"""Of a cell: less is a cell without volume, as in CDVAE's validity (Xie et al. 2022). One atom of hydrogen takes 2."""

LEAST_DISTANCE_ANGSTROM = 0.5
"""Of two sites, CDVAE's validity: the shortest bond, of hydrogen, is 0.74 Å. What is too close for the elements of a
pair is another question, see `crystallography.contacts`."""

MOST_IMAGES = 32
"""Cell images along one axis: a cell that needs more is so flat or skewed that it is no crystal."""

NOT_FINITE, NO_VOLUME = "positions or cell are not finite", "the cell has no volume"


def why_not(frac: np.ndarray, lattice: np.ndarray) -> str:
    """What keeps positions (n, 3) and a cell (3, 3) from being those of a crystal; "" where nothing does."""
    if not (np.isfinite(frac).all() and np.isfinite(lattice).all()):
        return NOT_FINITE
    flat = abs(np.linalg.det(np.asarray(lattice, float))) < LEAST_VOLUME_ANGSTROM3
    return no_volume(lattice, len(frac)) if flat else ""


def no_volume(lattice: np.ndarray, sites: int, least: float = LEAST_VOLUME_ANGSTROM3) -> str:
    """What is said of a cell (3, 3) that has less than `least` Å³."""
    volume = abs(np.linalg.det(np.asarray(lattice, float)))
    return f"{NO_VOLUME}: {volume / max(sites, 1):.3g} Å³ per atom; expected at least {least:g} Å³ in all"

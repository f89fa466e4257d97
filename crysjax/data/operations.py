"""Whether a crystal has the operations of a space group, on the host and by looking at all of its atoms."""

from __future__ import annotations

import numpy as np

from crysjax.data.datasets import Entry
from crysjax.geometry.symmetry import primitive_operations


def has_group(entry: Entry, group: int, *, tolerance_angstrom: float = 0.01) -> bool:
    """Whether every operation of the group takes every atom to within the tolerance of one of its element.

    The crystal is in the primitive cell of the group's standard setting. One of a larger group that contains this one
    has it, another setting or origin has not.
    """
    lattice, frac = np.asarray(entry.lattice, float), np.asarray(entry.frac, float)
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return False
    rotations, translations = primitive_operations(group)
    metric = lattice @ lattice.T
    if (
        np.abs(rotations.transpose(0, 2, 1) @ metric @ rotations - metric).max()
        > 2 * tolerance_angstrom * metric.max() ** 0.5
    ):
        return False
    images = np.einsum("kij,nj->kni", rotations, frac) + translations[:, None]
    off = images[:, :, None] - frac[None, None]
    distance = np.linalg.norm(
        (off - np.round(off)) @ lattice, axis=-1
    )  # exact where it is small, which is all that counts
    numbers = np.asarray(entry.numbers)
    distance = np.where(numbers[:, None] == numbers[None], distance, np.inf)
    return bool((distance.min(-1) < tolerance_angstrom).all())

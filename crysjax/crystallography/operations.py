"""The operations of a crystal, on the host: whether it has those of a group, and those that spglib finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysjax.crystallography import symmetry_finder
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


class FoundOperations(NamedTuple):
    """The `k` operations of a crystal: positions go to `frac @ rotation + translation`, sites to sites."""

    rotation: np.ndarray  # (k, 3, 3) of fractional row vectors
    translation: np.ndarray  # (k, 3)
    image: np.ndarray  # (k, n) int32 the site that each site is taken to


def operations(entry: Entry, *, tolerance_angstrom: float = 0.01) -> FoundOperations:
    """All operations of the crystal in its own cell, as spglib finds them; the identity alone where it finds none."""
    lattice, frac = np.asarray(entry.lattice, float), np.asarray(entry.frac, float)
    one = FoundOperations(np.eye(3)[None], np.zeros((1, 3)), np.arange(len(frac), dtype=np.int32)[None])
    found, _ = symmetry_finder.ask("get_symmetry", (lattice, frac, entry.numbers), tolerance_angstrom)
    if found is None:
        return one
    rotation, translation = found["rotations"].swapaxes(1, 2).astype(float), found["translations"]
    off = (frac[None] @ rotation + translation[:, None])[:, :, None] - frac[None, None]
    distance = np.linalg.norm((off - np.round(off)) @ lattice, axis=-1)
    image = np.where(entry.numbers[:, None] == entry.numbers[None], distance, np.inf).argmin(-1).astype(np.int32)
    return FoundOperations(rotation, translation, image)


def symmetrized(entry: Entry, found: FoundOperations) -> tuple[np.ndarray, np.ndarray]:
    """Positions and lattice of the crystal with its operations made exact: means over all of them."""
    lattice, frac = np.asarray(entry.lattice, float), np.asarray(entry.frac, float)
    back = (frac[found.image] - found.translation[:, None]) @ np.linalg.inv(found.rotation)
    off = back - frac[None]
    metric = (found.rotation @ (lattice @ lattice.T) @ found.rotation.swapaxes(1, 2)).mean(0)
    to_unit = np.linalg.inv(lattice)
    values, vectors = np.linalg.eigh(to_unit @ metric @ to_unit.T)
    strain = (vectors * np.sqrt(values)) @ vectors.T  # symmetric, so that the crystal does not turn
    return frac + (off - np.round(off)).mean(0), lattice @ strain


def cartesian(found: FoundOperations, lattice: np.ndarray) -> np.ndarray:
    """The rotations of Cartesian row vectors, made orthogonal to rounding: (k, 3, 3)."""
    turned = np.linalg.inv(lattice) @ found.rotation @ lattice
    left, _, right = np.linalg.svd(turned)
    return left @ right

"""What several test files build on: one crystal described in many equivalent ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from crysjax.base import NUM_SPECIES, Crystal


def crystal(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> Crystal:
    """A crystal of known species as float32 host arrays."""
    occupancy = np.eye(NUM_SPECIES, dtype=np.float32)[np.asarray(numbers, int) - 1]
    return Crystal(occupancy, np.asarray(frac, np.float32), np.asarray(lattice, np.float32))


def basis(matrix: list) -> Callable[[Crystal], Crystal]:
    """The lattice vectors `matrix @ lattice`, of the same lattice: whole numbers, determinant 1 or -1."""
    u = np.asarray(matrix, np.float64)
    return lambda c: c._replace(
        frac=(c.frac.astype(float) @ np.linalg.inv(u)).astype(np.float32), lattice=(u @ c.lattice).astype(np.float32)
    )


def supercell(matrix: list) -> Callable[[Crystal], Crystal]:
    """The supercell with the lattice vectors `matrix @ lattice`, an upper triangle of whole numbers."""
    u = np.asarray(matrix, np.float64)
    steps = np.stack(np.meshgrid(*(np.arange(int(k)) for k in np.diag(u)), indexing="ij"), -1).reshape(-1, 3)

    def build(c: Crystal) -> Crystal:
        frac = (c.frac.astype(float)[:, None] + steps[None]).reshape(-1, 3) @ np.linalg.inv(u)
        lattice = (u @ c.lattice).astype(np.float32)
        return Crystal(np.repeat(c.occupancy, len(steps), 0), (frac - np.floor(frac)).astype(np.float32), lattice)

    return build


def _rotated(c: Crystal) -> Crystal:
    return c._replace(lattice=c.lattice @ Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix().astype(np.float32))


def _moved_by_whole_cells(c: Crystal) -> Crystal:
    steps = np.random.default_rng(len(c.frac)).integers(-2, 3, c.frac.shape)
    return c._replace(frac=(c.frac + steps).astype(np.float32))


def _reordered(c: Crystal) -> Crystal:
    order = np.random.default_rng(len(c.frac)).permutation(len(c.frac))
    return c._replace(occupancy=c.occupancy[order], frac=c.frac[order])


EQUIVALENT: dict[str, Callable[[Crystal], Crystal]] = {
    "rotation": _rotated,
    "reflection": lambda c: c._replace(lattice=c.lattice * np.float32([-1, 1, 1])),
    "translation": lambda c: c._replace(frac=c.frac + np.float32([0.21, 0.63, -0.4])),
    "whole cells": _moved_by_whole_cells,
    "order of sites": _reordered,
    "axes renamed in a cycle": basis([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "two axes exchanged": basis([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "one axis turned round": basis([[1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "all axes turned round": basis([[-1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "sheared": basis([[1, 1, 0], [0, 1, 0], [-1, 0, 1]]),
    "sheared far": basis([[1, 7, 0], [0, 1, -5], [0, 0, 1]]),
    "doubled along one axis": supercell([[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "a multiple of four": supercell([[2, 0, 0], [0, 2, 0], [0, 0, 1]]),
    "a sheared supercell": supercell([[3, 1, 0], [0, 1, 2], [0, 0, 1]]),
}
"""The 14 kinds of description that a function of a crystal must not see, each a change of one that is described."""

"""A cheap continuous fingerprint of a crystal: mean distances to the nearest neighbours, element by element.

The average minimum distances of Widdowson et al. (2022, eq. 3), taken over the sites of each element and each
neighbour element's identity ignored. It does not depend on the choice of cell, the order of sites or the orientation,
and moves by at most twice the largest displacement of a site, so that equal crystals are always close.
"""

from __future__ import annotations

import numpy as np

from crysjax.data.datasets import Entry

NEIGHBORS = 12


def fingerprint(row: Entry, *, neighbors: int = NEIGHBORS) -> np.ndarray:
    """Mean k-th neighbour distance over the sites of each element, in units of the free length: (elements, k).

    Elements come in the order of atomic number; the free length is (volume / sites)^(1/3).
    """
    lattice = np.asarray(row.lattice, float)
    free_length = (abs(np.linalg.det(lattice)) / len(row.numbers)) ** (1 / 3)
    distance = neighbor_distances(np.asarray(row.frac, float), lattice, neighbors) / free_length
    return np.stack([distance[row.numbers == z].mean(0) for z in np.unique(row.numbers)])


def neighbor_distances(frac: np.ndarray, lattice: np.ndarray, neighbors: int) -> np.ndarray:
    """Distances in Å of each site to its nearest `neighbors`, periodic images included: (n, neighbors) ascending.

    Exact for every cell: the box of images grows until the distances found lie within what it surely covers.
    """
    height = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)  # between lattice planes: what one more image covers
    offset = frac[:, None] - frac[None]
    offset = (offset - np.round(offset)) @ lattice
    radius = 1.2 * (3 * (neighbors + 1) * abs(np.linalg.det(lattice)) / (4 * np.pi * len(frac))) ** (1 / 3)
    while True:
        repeat = np.maximum(np.ceil(radius / height - 0.5), 1).astype(int)  # offsets lie within half a cell
        images = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in repeat), indexing="ij"), -1).reshape(-1, 3)
        distance = np.linalg.norm(offset[:, :, None] + (images @ lattice)[None, None], axis=-1).reshape(len(frac), -1)
        nearest = np.sort(np.partition(distance, neighbors, axis=1)[:, : neighbors + 1], axis=1)[:, 1:]
        if nearest[:, -1].max() <= radius:
            return nearest
        radius = nearest[:, -1].max() * (1 + 1e-9)

"""Distances of every site to its nearest neighbors, exactly and in bulk, and a cheap fingerprint made of them.

The fingerprint is the average minimum distances (Widdowson et al., MATCH 87, 529, 2022), over the sites of each element
and each neighbor element's identity ignored. It does not depend on the choice of cell, the order of sites or the
orientation, and moves by at most twice the largest displacement of a site, so that equal crystals are always close.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from crysjax.data.datasets import Dataset, Entry, offsets

NEIGHBORS = 12
_GUESS = 1.1  # first search radius, in units of the radius that holds k sites at the mean density
_BLOCK = 300_000  # squared distances held at once: 2.4 MB, which a core's cache holds


def fingerprint(row: Entry, *, neighbors: int = NEIGHBORS) -> np.ndarray:
    """Mean k-th neighbor distance over the sites of each element, in units of the free length: (elements, k).

    Elements come in the order of atomic number; the free length is (volume / sites)^(1/3).
    """
    lattice = np.asarray(row.lattice, float)
    free_length = (abs(np.linalg.det(lattice)) / len(row.numbers)) ** (1 / 3)
    distance = neighbor_distances(np.asarray(row.frac, float), lattice, neighbors) / free_length
    return np.stack([distance[row.numbers == z].mean(0) for z in np.unique(row.numbers)])


def map_neighbor_distances(
    dataset: Dataset, neighbors: int, function: Callable[[np.ndarray, np.ndarray], None], *, threads: int | None = None
) -> None:
    """Call `function(index, distances)` for blocks of crystals of one size, until every crystal was in one.

    `index` (b,) are rows of the data set, `distances` (b, n, neighbors) in Å. Blocks fit a core's cache and run on
    `threads` threads (NumPy lets go of the interpreter), so `function` must only write to rows of its own.
    """
    lattice, start = np.asarray(dataset.lattice, float), offsets(dataset)[:-1]

    def do(index: np.ndarray) -> None:
        sites = start[index][:, None] + np.arange(dataset.num_atoms[index[0]])
        frac = np.asarray(dataset.frac[sites], float)
        function(index, neighbor_distances(frac, lattice[index], neighbors))

    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8)) as pool:
        list(pool.map(do, _blocks(lattice, dataset.num_atoms, neighbors)))


def _blocks(lattice: np.ndarray, num_atoms: np.ndarray, neighbors: int) -> list[np.ndarray]:
    """Rows grouped by number of sites and, within that, by what they cost, in blocks of about equal cost."""
    reach = _radius(lattice, num_atoms, neighbors) + np.linalg.norm(lattice, axis=-1).sum(-1) / 2
    box = np.prod(2 * np.floor(reach[:, None] / _heights(lattice)) + 1, -1)
    cells = 4.19 * reach**3 / np.abs(np.linalg.det(lattice))
    cost = num_atoms.astype(float) ** 2 * cells + box
    order = np.lexsort([cost, num_atoms])
    group = np.cumsum(cost[order]) // _BLOCK + 1j * num_atoms[order]
    return np.split(order, np.flatnonzero(np.diff(group)) + 1)


def neighbor_distances(frac: np.ndarray, lattice: np.ndarray, neighbors: int) -> np.ndarray:
    """Distances in Å of each site to its nearest `neighbors`, periodic images included, ascending.

    One crystal or many of one size, frac (..., n, 3) and lattice (..., 3, 3) in double precision: (..., n, neighbors).
    Exact for every cell: the radius of the search grows until the distances found lie within what it surely covers.
    """
    shape = (*frac.shape[:-1], neighbors)
    frac, lattice = frac.reshape(-1, *frac.shape[-2:]), lattice.reshape(-1, 3, 3)
    radius = _radius(lattice, frac.shape[1], neighbors)
    nearest = np.empty((*frac.shape[:2], neighbors))
    todo = np.arange(len(frac))
    while len(todo):
        found = _nearest_within(frac[todo], lattice[todo], neighbors, radius[todo])
        farthest = found[..., -1].max(1)
        nearest[todo] = found
        missed = farthest > radius[todo]
        # the true distance is at most what was found, so that radius is enough
        radius[todo] = np.where(np.isfinite(farthest), farthest * (1 + 1e-9), 1.5 * radius[todo])
        todo = todo[missed]
    return nearest.reshape(shape)


def _radius(lattice: np.ndarray, num_atoms: np.ndarray | int, neighbors: int) -> np.ndarray:
    """A first guess of the largest distance to the last neighbor: (b,) Å."""
    volume = np.abs(np.linalg.det(lattice))
    return _GUESS * (3 * (neighbors + 1) * volume / (4 * np.pi * num_atoms)) ** (1 / 3)


def _heights(lattice: np.ndarray) -> np.ndarray:
    """Distances between lattice planes: what one more cell along each axis covers, (b, 3) Å."""
    return 1 / np.linalg.norm(np.linalg.inv(lattice), axis=1)


def _nearest_within(frac: np.ndarray, lattice: np.ndarray, neighbors: int, radius: np.ndarray) -> np.ndarray:
    """The nearest of all images that may lie within `radius` (b,), infinite where there are too few: (b, n, k).

    A pair's offset o is wrapped to the nearest cell; only translations T with |T| <= radius + max|o| can bring it
    within the radius. |o + T|² = |o|² + 2 o.T + |T|² is one small matrix product per crystal.
    """
    count, sites = frac.shape[:2]
    offset = frac[:, :, None] - frac[:, None]
    offset = (offset - np.round(offset)).reshape(count, sites * sites, 3) @ lattice
    offset2 = np.einsum("bpi,bpi->bp", offset, offset)
    cells = _cells(lattice, radius + np.sqrt(offset2.max(1)))
    left = np.concatenate([offset, np.ones_like(offset[..., :1]), offset2[..., None]], -1)
    distance2 = (left @ cells).reshape(count, sites, -1)
    if distance2.shape[-1] <= neighbors:
        return np.full((count, sites, neighbors), np.inf)
    distance2.partition(neighbors, axis=-1)
    nearest = np.sort(distance2[..., : neighbors + 1], axis=-1)[..., 1:]  # the first is the site itself
    return np.where(nearest < _FAR, np.sqrt(np.maximum(nearest, 0)), np.inf)


_FAR = 1e30  # stands in the columns of a crystal that needs fewer cells than others of its block


def _cells(lattice: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Columns (2 T, |T|², 1) of every lattice translation with |T| <= reach: (b, 5, cells), filled up with far ones."""
    largest = np.floor(reach[:, None] / _heights(lattice)).max(0)
    box = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in largest), indexing="ij"), -1).reshape(-1, 3)
    shift = box @ lattice
    shift2 = np.einsum("bmi,bmi->bm", shift, shift)
    row, column = np.nonzero(shift2 <= (reach**2)[:, None])
    held = np.bincount(row, minlength=len(lattice))
    slot = np.arange(len(row)) - np.repeat(np.cumsum(held) - held, held)
    cells = np.zeros((len(lattice), 5, held.max()))
    cells[:, 3], cells[:, 4] = 2 * _FAR, 1
    cells[row, :3, slot] = 2 * shift[row, column]
    cells[row, 3, slot] = shift2[row, column]
    return cells

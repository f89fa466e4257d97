"""Supercells of a primitive cell: their atoms, nearest images, and how space-group operations move them.

Only diagonal supercells `n1 a x n2 b x n3 c`. Atoms are listed cell by cell with the home cell first, so supercell atom
`cell * n + atom` is the primitive atom `atom` and the first `n` atoms are the primitive cell. Everything here is host
NumPy in double precision: it is made once for a crystal, and what is traced afterwards only gathers by these tables.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from crysjax.geometry.neighbors import plane_spacings


class Supercell(NamedTuple):
    """`c = n1 n2 n3` copies of a primitive cell of `n` atoms, `N = c n` atoms in all."""

    repeats: tuple[int, int, int]
    frac: np.ndarray  # (N, 3) fractions of the supercell
    lattice: np.ndarray  # (3, 3) rows in Å, of the supercell
    atom: np.ndarray  # (N,) int: the primitive atom that each one copies
    cell: np.ndarray  # (N, 3) int: the primitive cell that each one lies in


class Images(NamedTuple):
    """The nearest copies, under the supercell's translations, of every supercell atom seen from every primitive one.

    Atoms halfway between are as near on several sides; each of these copies has an equal share of the force constant
    (Parlinski, Li, Kawazoe, Phys. Rev. Lett. 78, 4063 (1997); phonopy's convention).
    """

    vector: np.ndarray  # (n, N, k, 3) in fractions of the primitive cell
    weight: np.ndarray  # (n, N, k) 1 / multiplicity, 0 for padding


class SiteMaps(NamedTuple):
    """Space-group operations of a primitive cell as maps of its atoms: (atom a, cell T) -> (image, W T + shift)."""

    rotation: np.ndarray  # (g, 3, 3) int W, acting on columns of fractions
    image: np.ndarray  # (g, n) int
    shift: np.ndarray  # (g, n, 3) int
    cartesian: np.ndarray  # (g, 3, 3) orthogonal R, acting on columns of Cartesian vectors


def repeats_for(lattice: np.ndarray, length_angstrom: float) -> tuple[int, int, int]:
    """The smallest repeats that make every edge of the supercell at least so long."""
    if not length_angstrom > 0:
        raise ValueError(f"length_angstrom: {length_angstrom} is not a positive length of the supercell's edges")
    edges = np.linalg.norm(np.asarray(lattice, float), axis=-1)
    return tuple(int(k) for k in np.maximum(np.ceil(length_angstrom / edges - 1e-6), 1))


def supercell(frac: np.ndarray, lattice: np.ndarray, repeats: tuple[int, int, int]) -> Supercell:
    """The supercell of a primitive cell (n, 3), (3, 3); fractions stay as they are, they are not wrapped."""
    if len(repeats) != 3 or min(repeats) < 1:
        raise ValueError(f"repeats: {repeats} should be three whole numbers from 1")
    size = np.array(repeats)
    cells = np.array(list(itertools.product(*map(range, repeats))))
    n, c = len(frac), len(cells)
    places = (np.asarray(frac, float)[None] + cells[:, None]).reshape(-1, 3) / size
    atom, cell = np.tile(np.arange(n), c), np.repeat(cells, n, 0)
    return Supercell(tuple(map(int, repeats)), places, np.asarray(lattice, float) * size[:, None], atom, cell)


def index_of(atom: np.ndarray, cell: np.ndarray, repeats: tuple[int, int, int], atoms: int) -> np.ndarray:
    """The supercell atom of a primitive atom (...,) in a cell (..., 3), any whole numbers."""
    inside = np.mod(cell, repeats)
    return np.ravel_multi_index(tuple(np.moveaxis(inside, -1, 0)), repeats) * atoms + atom


def partners(cell: Supercell) -> tuple[np.ndarray, np.ndarray]:
    """For each pair (a, J) the same pair from the other end, as (primitive atom, supercell atom): (n, N) twice."""
    n = len(cell.atom) // np.prod(cell.repeats)
    other = index_of(np.arange(n)[:, None], -cell.cell[None], cell.repeats, n)
    return np.broadcast_to(cell.atom[None], other.shape), other


def nearest_images(cell: Supercell, tolerance_angstrom: float = 1e-3) -> Images:
    """The nearest images of all pairs; copies that are farther by less than the tolerance count as equally near."""
    size = np.array(cell.repeats)
    n = len(cell.atom) // np.prod(size)
    delta = cell.frac[None] - cell.frac[:n, None]
    delta -= np.round(delta)
    shifts = np.array(list(itertools.product(*(range(-k, k + 1) for k in _reach(cell.lattice)))))
    distance = np.linalg.norm((delta[:, :, None] + shifts) @ cell.lattice, axis=-1)
    near = distance < distance.min(-1, keepdims=True) + tolerance_angstrom
    count = near.sum(-1)
    first = np.argsort(~near, -1, kind="stable")[..., : count.max()]
    weight = np.take_along_axis(near, first, -1) / count[..., None]
    return Images((delta[:, :, None] + shifts[first]) * size, weight)


def _reach(lattice: np.ndarray) -> np.ndarray:
    """Images along each axis that hold the nearest copy of any point of the cell around the origin: (3,) int.

    It is no farther than that cell's corners; a plane k cells away is at least (k - 1/2) spacings from the point.
    """
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) @ lattice
    return np.floor(np.linalg.norm(corners, axis=-1).max() / plane_spacings(lattice) + 0.5 + 1e-9).astype(int)


def site_maps(
    frac: np.ndarray, lattice: np.ndarray, numbers: np.ndarray, rotations: np.ndarray, translations: np.ndarray,
    repeats: tuple[int, int, int], tolerance_angstrom: float = 0.02,
) -> SiteMaps:  # fmt: skip
    """The operations x -> W x + w that are also symmetries of the supercell, as maps of its atoms.

    (n, 3), (3, 3), (n,), W (g, 3, 3), w (g, 3). Operations that turn the supercell's edges out of their lattice (a
    fourfold axis where n1 differs from n2) or that miss an atom by more than the tolerance are left out.
    """
    kept, size, cell = [], np.array(repeats), np.asarray(lattice, float)
    for w, t in zip(np.asarray(rotations, int), np.asarray(translations, float)):
        turned = w * size[None, :] / size[:, None]
        r = cell.T @ w @ np.linalg.inv(cell.T)
        if (turned != np.round(turned)).any() or np.abs(r @ r.T - np.eye(3)).max() > 1e-3:
            continue
        found = _image(np.asarray(frac, float), cell, np.asarray(numbers), w, t, tolerance_angstrom)
        if found is not None:
            kept.append((w, *found, r))
    if not kept:
        raise ValueError("site_maps: no operation, not even the identity, maps the atoms onto themselves")
    return SiteMaps(*(np.stack(leaf) for leaf in zip(*kept)))


def _image(frac: np.ndarray, lattice: np.ndarray, numbers: np.ndarray, w: np.ndarray, t: np.ndarray, tolerance: float):
    """Where an operation takes every atom, (n,) and (n, 3) cells, or None if one has no place to go."""
    off = (frac @ w.T + t)[:, None] - frac[None]
    distance = np.linalg.norm((off - np.round(off)) @ lattice, axis=-1)
    distance = np.where(numbers[:, None] == numbers[None], distance, np.inf)
    image = distance.argmin(-1)
    if distance.min(-1).max() > tolerance or len(set(image.tolist())) < len(image):
        return None
    return image, np.round(off[np.arange(len(frac)), image]).astype(int)


def moved(maps: SiteMaps, operation: int, atom: int, cell: Supercell) -> np.ndarray:
    """Where an operation takes every supercell atom, once the image of `atom` of the home cell is moved home: (N,)."""
    own = maps.shift[operation, cell.atom] - maps.shift[operation, atom]
    to = cell.cell @ maps.rotation[operation].T + own
    return index_of(maps.image[operation, cell.atom], to, cell.repeats, maps.image.shape[1])


def commensurate(repeats: tuple[int, int, int]) -> np.ndarray:
    """The wave vectors that fit into a supercell, in fractions of the primitive reciprocal lattice: (c, 3)."""
    grid = np.array(list(itertools.product(*map(range, repeats))))
    q = grid / np.array(repeats)
    return q - np.round(q - 1e-9)  # in (-1/2, 1/2]

"""The Wyckoff view: every crystal as its space group, its orbits and its free lattice parameters, found by spglib.

What spglib finds is turned into the standard setting of `geometry.symmetry` and projected onto it, so that a model
trained on the view sees crystals that have their groups exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crysjax.base import Orbits, Views
from crysjax.crystallography import symmetry_finder
from crysjax.data import datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.data.readers import hall_settings
from crysjax.geometry.symmetry import LETTERS, table
from crysjax.geometry.torus import AROUND

_TOLERANCE = 0.08  # in fractions, how far off its position a site may lie that spglib says is on it


def wyckoff_view(
    dataset: Dataset, *, max_orbits: int = 20, tolerance_angstrom: float = 0.1
) -> Callable[[np.ndarray, Capacity], Views]:
    """The view of a data set: `rows(members, shape)` gives the `orbits` of those rows, leaves (shape.crystals, ...).

    A crystal is left undescribed (group 0) if spglib finds nothing, if its cell is not primitive, or if it has more
    than `max_orbits` orbits; so are unused slots. A row is described when it is first asked for, and kept.
    """
    kept: dict[int, Orbits] = {}

    def described(row: int) -> Orbits:
        if row not in kept:
            kept[row] = _orbits(dataset, row, max_orbits, tolerance_angstrom)
        return kept[row]

    def rows(members: np.ndarray, shape: Capacity) -> Views:
        unused = [_nothing(max_orbits)] * (shape.crystals - len(members))
        leaves = zip(*[described(int(k)) for k in members], *unused)
        return Views(orbits=Orbits(*(np.stack(leaf) for leaf in leaves)))

    return rows


def _nothing(max_orbits: int) -> Orbits:
    letters, u = np.zeros(max_orbits, np.int32), np.zeros((max_orbits, 3), np.float32)
    return Orbits(np.int32(0), letters, letters, u, np.array([1, 1, 1, 90, 90, 90], np.float32))


def _orbits(dataset: Dataset, row: int, max_orbits: int, tolerance: float) -> Orbits:
    sites = datasets.site_index(dataset, np.array([row]))
    cell = dataset.lattice[row].astype(float), dataset.frac[sites].astype(float), dataset.numbers[sites].astype(int)
    found = _symmetry(cell, tolerance)
    nothing = _nothing(max_orbits)
    if found is None:
        return nothing
    group, cells = found.number, table().centering[found.number]
    if not np.isclose(abs(np.linalg.det(found.transformation_matrix)) * cells, 1, atol=1e-3):
        return nothing
    frac = cell[1] @ found.transformation_matrix.T + found.origin_shift
    members = [np.flatnonzero(found.crystallographic_orbits == o) for o in np.unique(found.crystallographic_orbits)]
    described = [_describe(group, LETTERS.index(found.wyckoffs[m[0]]), frac[m], cell[2][m[0]]) for m in members]
    if len(described) > max_orbits or None in described:
        return nothing
    letter, number, u = (np.array(part) for part in zip(*sorted(described)))
    if table().sites[group, letter].sum() != len(sites):
        return nothing
    padded = Orbits(*(leaf.copy() for leaf in nothing))
    padded.letter[: len(letter)], padded.number[: len(letter)], padded.u[: len(letter)] = letter, number, u
    return padded._replace(group=np.int32(group), lattice=_parameters(found.std_lattice))


def _describe(group: int, letter: int, sites: np.ndarray, number: int) -> tuple | None:
    """(letter, number, u) of one orbit, u the smallest of all equal ones; `None` if no site lies on the position."""
    t = table()
    copies = (sites[:, None] + t.centerings[group][: t.centering[group]][None]).reshape(-1, 3)
    off = copies - t.offset[group, letter]
    off = (off - np.round(off))[:, None] + AROUND[None]
    u = off.reshape(-1, 3) @ t.solve[group, letter].T
    residual = np.abs(off.reshape(-1, 3) - u @ t.linear[group, letter].T).max(-1)
    fitting = residual < max(residual.min() + 1e-4, 1e-4)
    if residual.min() > _TOLERANCE:
        return None
    u = np.round(u[fitting], 5) % 1.0
    u = np.where(t.free[group, letter], np.where(u > 1 - 2e-5, 0.0, u), 0.0)  # not 0.99999 here and 0.00000 there
    return letter, int(number), tuple(min(u.tolist()))


def _symmetry(cell: tuple, tolerance: float):
    """What spglib finds, in the standard setting, with the tolerance halved until it finds something."""
    for k in range(5):
        found, _ = symmetry_finder.ask("get_symmetry_dataset", cell, tolerance / 2**k)
        if found is not None:
            hall = hall_settings.standard()[found.number]
            found, _ = symmetry_finder.ask("get_symmetry_dataset", cell, tolerance / 2**k, hall_number=hall)
            return found
    return None


def _parameters(lattice: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[:, None]
    cos = [unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cos, -1, 1)))]).astype(np.float32)

"""The Wyckoff view: every crystal as its space group, its orbits and its free lattice parameters, found by spglib.

What spglib finds is turned into the standard setting of `geometry.symmetry` and projected onto it, so that a model
trained on the view sees crystals that have their groups exactly. Of the equivalent descriptions in this setting
(`normalizers`) it is the one with the first letters, the lightest elements on them, then the smallest coordinates:
crystals of one structure type have the same letters, wherever their origin was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crysjax.base import Orbits, Views
from crysjax.crystallography import symmetry_finder
from crysjax.crystallography.normalizers import normalizer
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
    if table().sites[group, [orbit[0] for orbit in described]].sum() != len(sites):
        return nothing
    described, turn = _standing_for_all(group, sorted(described))
    letter, number, u = (np.array(part) for part in zip(*described))
    padded = Orbits(*(leaf.copy() for leaf in nothing))
    padded.letter[: len(letter)], padded.number[: len(letter)], padded.u[: len(letter)] = letter, number, u
    return padded._replace(group=np.int32(group), lattice=_parameters(np.linalg.inv(turn).T @ found.std_lattice))


def _standing_for_all(group: int, orbits: list[tuple]) -> tuple[list[tuple], np.ndarray]:
    """Of all equivalent descriptions the first one, ascending, and the rotation (3, 3) of the axes that leads there."""
    normal = normalizer(group)
    letters = [sorted((int(row[letter]), number) for letter, number, _ in orbits) for row in normal.letters]
    first = min(letters, key=lambda pairs: ([letter for letter, _ in pairs], pairs))
    best: tuple[list[tuple], np.ndarray] | None = None
    for k in (k for k, pairs in enumerate(letters) if pairs == first):
        p, row = normal.rotations[k], normal.letters[k]
        moved = [_sites(group, letter, u) @ p.T + normal.translations[k] for letter, _, u in orbits]
        for origin in _origins(normal.polar, moved, [(int(row[letter]), number) for letter, number, _ in orbits]):
            said = [
                _describe(group, int(row[letter]), sites - origin, number)
                for sites, (letter, number, _) in zip(moved, orbits)
            ]
            if None not in said and (best is None or sorted(said) < best[0]):
                best = sorted(said), p
    return (orbits, np.eye(3)) if best is None else best


def _origins(polar: np.ndarray, sites: list[np.ndarray], orbits: list[tuple]) -> np.ndarray:
    """Where the origin may be put: on a site of the first orbits along the directions in which it is free."""
    if not polar.any():
        return np.zeros((1, 3))
    of_first = np.concatenate([x for x, orbit in zip(sites, orbits) if orbit == min(orbits)])
    return np.unique(np.round(of_first * polar, 6) % 1.0, axis=0)


def _sites(group: int, letter: int, u: tuple) -> np.ndarray:
    """The sites of an orbit in the primitive cell, in fractions of the conventional one: (m, 3)."""
    t = table()
    of = t.orbits[group, letter][: t.sites[group, letter]]
    first = t.linear[group, letter] @ np.array(u) + t.offset[group, letter]
    return t.rotations[group][of] @ first + t.translations[group][of]


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

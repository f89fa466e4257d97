"""Which atoms a chemist would join, and the polyhedra around cations: for drawings and for words about them.

Distances are measured by the sum of two covalent radii (Cordero et al. 2008), as in `contacts`.

Anions are found site by site, the most electronegative element first: a site of a nonmetal or metalloid is an anion
unless an anion of another element is bound to it. Sulfur is therefore an anion in a sulfide and in an oxysulfide, and
a cation in a sulfate. A crystal has either kind of bonds:

- with anions: from each cation to the anions within `IONIC` radii, or within 15 % of its nearest one where that is
  further off (hydrides, sodium in a perovskite). Two anions of one element are joined if they touch as in a peroxide
  or in pyrite. Nothing joins two cations.
- without (metals, alloys, elements): each atom to its nearest neighbors, those within 10 % of the shortest contact.

It is a rule of thumb, not an analysis: nothing is ranked or rejected by it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysjax.chemistry.element_properties import electronegativities
from crysjax.crystallography.contacts import radii_angstrom

FORMERS = np.array([1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 51, 52, 53])
"""What can be an anion: H, B, C, N, O, F, Si, P, S, Cl, Ge, As, Se, Br, Sb, Te, I."""

IONIC, COVALENT, REACH = 1.2, 1.15, 1.5  # in sums of two radii; nothing further than REACH is a bond
SHELL, CLOSE = 1.15, 1.1  # times the nearest one: neighbors of a cation, of an atom of a metal
MOST_IMAGES = 200_000  # atoms searched
MOST_BONDS = 20  # for each atom; a collapsed cell has more, and no bonds are found then
FLAT = 0.15  # Å: corners within this of a plane are a plane


class Bonds(NamedTuple):
    """Bonds of one cell, each once; the second atom lies `shift` cells away from its place in the cell."""

    first: np.ndarray  # (b,) int sites: cations, where there are anions
    second: np.ndarray  # (b,) int
    shift: np.ndarray  # (b, 3) int
    distance_angstrom: np.ndarray  # (b,)
    anion: np.ndarray  # (n,) bool, of sites
    complete: bool = True  # False: too many atoms within reach, nothing was searched


def bonds(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> Bonds:
    """The bonds of a crystal: (n,), (n, 3), (3, 3) in Å."""
    numbers = np.asarray(numbers)
    found = _within_reach(numbers, np.asarray(frac, float), np.asarray(lattice, float))
    if found is None:
        return Bonds(*_nothing(), np.zeros(len(numbers), bool), False)
    first, second, shift, distance, ratio = found
    anion = anions(numbers, first, second, ratio)
    if anion.any():
        outward = ~anion[first] & anion[second]
        limit = np.maximum(IONIC, SHELL * _least(len(numbers), first[outward], ratio[outward]))
        touching = anion[first] & (numbers[first] == numbers[second]) & (ratio <= COVALENT)
        kept = (outward & (ratio <= limit[first])) | (touching & _once(first, second, shift))
    else:
        near = ratio <= CLOSE * _least(len(numbers), first, ratio)[first]
        theirs = ratio <= CLOSE * _least(len(numbers), first, ratio)[second]
        kept = (near | theirs) & _once(first, second, shift)
    if kept.sum() > MOST_BONDS * len(numbers):
        return Bonds(*_nothing(), anion, False)
    return Bonds(first[kept], second[kept], shift[kept], distance[kept], anion)


def anions(numbers: np.ndarray, first: np.ndarray, second: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Which sites (n,) are anions, of pairs of sites with their distances in sums of radii."""
    known = np.nan_to_num(electronegativities()[np.unique(numbers) - 1])
    ordered = np.unique(numbers)[np.argsort(-known, kind="stable")]
    anion = np.zeros(len(numbers), bool)
    for z in ordered[:-1]:  # what gives electrons to all others is none
        bound = np.zeros(len(numbers), bool)
        bound[first[anion[second] & (ratio <= IONIC)]] = True
        anion |= (numbers == z) & ~bound & np.isin(z, FORMERS)
    return anion


def _within_reach(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Sites, shifts, distances and distances in sums of radii of all pairs within reach, both ways round."""
    from scipy.spatial import cKDTree

    radius = radii_angstrom()[numbers - 1].astype(float)
    reach = REACH * 2 * radius.max()
    height = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    far = np.ceil(reach / height + np.ptp(frac, axis=0)).astype(int)
    if len(numbers) * np.prod(2.0 * far + 1) > MOST_IMAGES:
        return None
    shifts = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in far), indexing="ij"), -1).reshape(-1, 3)
    images = ((frac[:, None] + shifts[None]) @ lattice).reshape(-1, 3)
    near = cKDTree(images).query_ball_point(frac @ lattice, reach)
    first = np.repeat(np.arange(len(numbers)), [len(row) for row in near])
    second, image = np.divmod(np.concatenate([np.asarray(row, int) for row in near]), len(shifts))
    distance = np.linalg.norm(((frac[second] + shifts[image]) - frac[first]) @ lattice, axis=1)
    ratio = distance / (radius[first] + radius[second])
    kept = (ratio <= REACH) & ((first != second) | shifts[image].any(1))
    return first[kept], second[kept], shifts[image][kept], distance[kept], ratio[kept]


def _nothing() -> tuple[np.ndarray, ...]:
    return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), int), np.zeros(0)


def _least(count: int, site: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    least = np.full(count, np.inf)
    np.minimum.at(least, site, ratio)
    return least


def _once(first: np.ndarray, second: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Of the two ways round of each pair, one."""
    ahead = shift @ np.array([10**6, 10**3, 1]) > 0
    return (first < second) | ((first == second) & ahead)


def neighbors(found: Bonds) -> list[list[tuple[int, tuple[int, int, int], float]]]:
    """Of each site, the bound sites with their shifts and distances; a bond counts at both of its ends."""
    out: list[list] = [[] for _ in found.anion]
    for i, j, shift, d in zip(found.first.tolist(), found.second.tolist(), found.shift, found.distance_angstrom):
        out[i].append((j, tuple(shift.tolist()), float(d)))
        out[j].append((i, tuple((-shift).tolist()), float(d)))
    return out


def faces(corners: np.ndarray) -> list[list[int]]:
    """The faces of the polyhedron of corners (k, 3) in Å as rings of their numbers; a flat one has one face.

    Corners inside the polyhedron belong to no face. Fewer than three corners, or corners on a line, make none.
    """
    from scipy.spatial import ConvexHull, QhullError

    centered = corners - corners.mean(0)
    _, spread, axes = np.linalg.svd(centered)
    if len(corners) < 3 or spread[1] < FLAT:
        return []
    if len(corners) == 3 or np.abs(centered @ axes[2]).max() < FLAT:
        return [_ring(corners, list(range(len(corners))), axes[2])]
    try:
        hull = ConvexHull(corners)
    except QhullError:
        return []
    merged: list[tuple[np.ndarray, set[int]]] = []
    for plane, simplex in zip(hull.equations, hull.simplices.tolist()):
        same = next((m for p, m in merged if np.abs(corners[simplex] @ p[:3] + p[3]).max() < FLAT / 3
                     and plane[:3] @ p[:3] > 0.9), None)  # fmt: skip
        if same is None:
            merged.append((plane, set(simplex)))
        else:
            same |= set(simplex)
    return [_ring(corners, sorted(ring), plane[:3]) for plane, ring in merged]


def _ring(corners: np.ndarray, chosen: list[int], normal: np.ndarray) -> list[int]:
    """The chosen corners in their order around their middle, seen along the normal."""
    off = corners[chosen] - corners[chosen].mean(0)
    across = off[0] - (off[0] @ normal) * normal
    angle = np.arctan2(off @ np.cross(normal, across), off @ across)
    return [chosen[k] for k in np.argsort(angle)]

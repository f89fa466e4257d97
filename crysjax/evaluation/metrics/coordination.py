"""Coordination environments of a crystal's sites, as CrystalNN finds them, and their fingerprint.

CrystalNN (Zimmermann and Jain 2020; Pan et al. 2021) weighs the neighbors of a site by the faces of its Voronoi cell,
the difference of electronegativities and the distance over the covalent radii; each distinct weight then cuts off one
coordination number, whose likelihood is an area under a quarter circle. Answers are those of pymatgen's CrystalNN and
matminer's "ops" preset. The cell comes from the convex hull of the inverted neighbors, of the nearest ones as long as
these provably decide it, instead of from a tessellation of everything within reach.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS
from crysjax.data.datasets import Entry
from crysjax.evaluation.metrics.order_parameters import LARGEST, order_parameters, places

REACH_ANGSTROM = 7.0
NEAR_ANGSTROM, FAR_ANGSTROM = 0.5, 1.0  # beyond the sum of radii, where a bond begins to count less and not at all
_ELECTRONEGATIVITY_WEIGHT, _LARGEST_DIFFERENCE = 3.0, 3.3
_FIRST = 48  # neighbors tried first


class Neighbors(NamedTuple):
    """Around one site, nearest first."""

    vector: np.ndarray  # (n, 3) in Å
    distance: np.ndarray  # (n,) in Å
    site: np.ndarray  # (n,) index


class NoCell(ValueError):
    """A site whose Voronoi cell is open, or cannot be made."""


def site_fingerprints(rows: list[Entry]) -> list[np.ndarray | str]:
    """The fingerprint of every site of each crystal, (sites, 61), or why there is none."""
    answers, sets = [], defaultdict(list)
    for i, row in enumerate(rows):
        try:
            answers.append(np.zeros((len(row.numbers), list(places().values())[-1].stop)))
            for site, found in enumerate(environments(row)):
                for count, weight, directions in found:
                    sets[count].append((i, site, weight, directions))
        except NoCell as error:
            answers[i] = str(error)
    for count, members in sets.items():
        members = [m for m in members if not isinstance(answers[m[0]], str)]
        _fill(answers, count, members)
    return answers


def _fill(answers: list, count: int, members: list[tuple]) -> None:
    """Write the weights and order parameters of all sets of `count` neighbors."""
    if not members or count > LARGEST:
        return
    place = places()[count]
    values = order_parameters(np.stack([directions for *_, directions in members]))
    for (i, site, weight, _), found in zip(members, values):
        answers[i][site, place] = weight * np.concatenate([[1.0], found])


def environments(row: Entry) -> list[list[tuple[int, float, np.ndarray]]]:
    """Of each site: (coordination number, likelihood, unit vectors to the neighbors) of all that are possible."""
    frac, lattice = np.asarray(row.frac, float), np.asarray(row.lattice, float)
    numbers = np.asarray(row.numbers, int)
    near = neighbors(frac, lattice, REACH_ANGSTROM)
    return [_environment(i, found, frac, lattice, numbers) for i, found in enumerate(near)]


def _environment(site: int, near: Neighbors, frac: np.ndarray, lattice: np.ndarray, numbers: np.ndarray) -> list:
    index, solid_angle, area, near = _cell(site, near, frac, lattice)
    weight = _weights(solid_angle, area, near.distance[index], numbers[site], numbers[near.site[index]])
    order = np.argsort(-weight, kind="stable")
    weight = np.array([round(float(w), 3) for w in weight[order]])  # Python rounds halves as decimals, NumPy does not
    order, weight = order[weight > 0], weight[weight > 0]
    steps = np.append(np.unique(weight)[::-1], 0.0)
    directions = near.vector[index[order]] / near.distance[index[order], None]
    counts = [int((weight >= step).sum()) for step in steps[:-1]]
    return [(n, p, directions[:n]) for n, p in zip(counts, np.diff(_quarter_circle(steps)) * -1)]


def _quarter_circle(x: np.ndarray) -> np.ndarray:
    """The share of a quarter circle's area left of x."""
    return (x * np.sqrt(1 - x * x) + np.arcsin(x)) / (0.5 * np.pi)


def _weights(solid_angle, area, distance, number: int, others: np.ndarray) -> np.ndarray:
    """The weight of each face's neighbor, the largest 1 before the distance counts: (f,)."""
    radius, electronegativity = _elements()
    weight = np.where(area > 0, solid_angle**2 / np.where(area > 0, area, 1), 0)
    difference = np.abs(electronegativity[number - 1] - electronegativity[others - 1])
    chemical = 1 + _ELECTRONEGATIVITY_WEIGHT * np.sqrt(difference / _LARGEST_DIFFERENCE)
    weight = weight * np.where(np.isnan(chemical), 1, chemical)
    beyond = distance - radius[number - 1] - radius[others - 1] - NEAR_ANGSTROM
    fade = 0.5 * (np.cos(np.pi * np.clip(beyond / (FAR_ANGSTROM - NEAR_ANGSTROM), 0, 1)) + 1)
    return weight / weight.max() * fade


@lru_cache(maxsize=1)
def _elements() -> tuple[np.ndarray, np.ndarray]:
    """Covalent radii in Å (atomic ones where there is none) and electronegativities (NaN for none) of every element."""
    import warnings

    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some elements have no electronegativity
        radii = [CovalentRadius.radius.get(s) or float(Element(s).atomic_radius or np.nan) for s in SYMBOLS]
        return np.array(radii), np.array([float(Element(s).X) for s in SYMBOLS])


# Voronoi cells


def _cell(site: int, near: Neighbors, frac: np.ndarray, lattice: np.ndarray):
    """The faces of a site's cell: indices of neighbors, solid angles, areas in Å^2, and the neighbors searched.

    The reach doubles, up to the cell's longest diagonal, while the Voronoi cell is open, as in pymatgen.
    """
    longest = max(np.linalg.norm(np.array(c) @ lattice) for c in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))) + 0.01
    reach = REACH_ANGSTROM
    while True:
        faces = _faces(near)
        if faces is not None:
            return *faces, near
        if reach >= longest:
            raise NoCell(f"the Voronoi cell of site {site} is open")
        reach = min(2 * reach, longest + 0.001)
        near = neighbors(frac, lattice, reach, only=site)[0]


def _faces(near: Neighbors) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Faces of the cell around the origin, or None if it is open; no more neighbors than decide it."""
    count = _FIRST
    while True:
        found = _dual(near.vector[:count])
        complete = count >= len(near.distance)
        if found is None and complete:
            return None
        if found is not None and (complete or 2 * found[1] <= near.distance[count - 1]):
            return found[0]
        count *= 2


def _dual(vectors: np.ndarray):
    """((neighbors, solid angles, areas), radius of the cell) from the hull of 2 p / |p|^2; None for an open cell.

    A facet n.y + o = 0 of the hull is the vertex -n / o of the cell, an edge of the hull an edge of the cell.
    """
    from scipy.spatial import ConvexHull, QhullError

    square = np.square(vectors).sum(1)
    if len(vectors) < 4 or square.min() < 1e-12:
        return None
    try:
        hull = ConvexHull(2 * vectors / square[:, None])
    except QhullError:
        return None
    offset = hull.equations[:, 3]
    if not (offset < 0).all():
        return None
    vertices = -hull.equations[:, :3] / offset[:, None]
    index, solid_angle, area = _polygons(hull.simplices, hull.neighbors, vertices)
    return (index, solid_angle, area), float(np.sqrt(np.square(vertices).sum(1).max()))


def _polygons(triangles: np.ndarray, adjacent: np.ndarray, vertices: np.ndarray):
    """Solid angle and area of the polygon around each hull vertex, in triangles from the mean of its corners."""
    index, flat = np.unique(triangles, return_inverse=True)
    face = flat.reshape(triangles.shape)
    corners, middle = np.bincount(face.ravel()), np.zeros((len(index), 3))
    for k in range(3):
        np.add.at(middle, face[:, k], vertices)
    middle = middle / corners[:, None]
    # the hull edge opposite corner k lies between two triangles; the cell edge between their vertices bounds two faces
    owner = np.concatenate([face[:, (k + step) % 3] for k in range(3) for step in (1, 2)])
    start = np.tile(vertices, (6, 1))
    end = np.concatenate([vertices[adjacent[:, k]] for k in range(3) for _ in (1, 2)])
    apex = middle[owner]
    area = np.linalg.norm(np.cross(start - apex, end - apex), axis=1) / 4  # every edge is met from both its sides
    angle = _solid_angle(apex, start, end) / 2
    return index, np.bincount(owner, angle, len(index)), np.bincount(owner, area, len(index))


def _solid_angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Of triangles seen from the origin (van Oosterom and Strackee 1983, eq. 8): (t, 3) each -> (t,)."""
    x, y, z = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    volume = np.abs((a * np.cross(b, c)).sum(1))
    spread = x * y * z + (a * b).sum(1) * z + (a * c).sum(1) * y + (b * c).sum(1) * x
    return 2 * np.arctan2(volume, spread)


def neighbors(frac: np.ndarray, lattice: np.ndarray, reach: float, only: int | None = None) -> list[Neighbors]:
    """All images of all sites within `reach` Å of each site (or of `only` one), without itself, nearest first."""
    frac = frac - np.floor(frac)
    height = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    repeat = np.ceil(reach / height + 1e-9).astype(int) + 1
    images = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in repeat), indexing="ij"), -1).reshape(-1, 3)
    shift = images @ lattice
    around = []
    for i in range(len(frac)) if only is None else [only]:
        home = (frac - frac[i]) @ lattice
        vectors = (home[:, None] + shift[None]).reshape(-1, 3)
        distance2 = np.square(vectors).sum(1)
        distance2[i * len(images) + len(images) // 2] = np.inf
        inside = np.flatnonzero(distance2 <= reach * reach)
        inside = inside[np.argsort(distance2[inside], kind="stable")]
        around.append(Neighbors(vectors[inside], np.sqrt(distance2[inside]), inside // len(images)))
    return around

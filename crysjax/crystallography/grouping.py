"""Which crystals belong together: labels by chemistry, by symmetry, and by distance in a descriptor space.

A label is what a grouped split keeps whole (`splits`) and whose overlap between splits is counted (`audit`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, anonymous_formula, counts
from crysjax.crystallography import symmetry_finder
from crysjax.crystallography.fingerprints import NEIGHBORS, map_neighbor_distances
from crysjax.data import parallel
from crysjax.data.datasets import Entry, from_entries

_INLINE_ROWS = 2000  # fewer are done before a second process has started


class SymmetryFound(NamedTuple):
    """What spglib says of a crystal; `number` 0 and no orbits where it finds no group."""

    number: int  # international number, 1..230
    primitive_atoms: int
    orbits: tuple[str, ...]  # multiplicity and site symmetry of each occupied Wyckoff position, sorted
    prototype: str  # such as `ABC3_221_5`: anonymous formula, group, atoms in the primitive cell
    wyckoff: str  # such as `221: 1 m-3m, 1 m-3m, 3 4/mm.m`


def symmetry(row: Entry, *, symprec_angstrom: float = 0.1) -> SymmetryFound:
    """Space group, prototype and Wyckoff sequence of a crystal.

    The sequence has multiplicity (in the conventional cell) and oriented site symmetry instead of letters: letters
    depend on the choice of origin, so that A and B of a cubic perovskite would be `a` and `b` or `b` and `a`.
    """
    found, _ = symmetry_finder.ask("get_symmetry_dataset", (row.lattice, row.frac, row.numbers), symprec_angstrom)
    number = found.number if found else 0
    primitive = len(set(found.mapping_to_primitive.tolist())) if found else len(row.numbers)
    orbits = _orbits(found) if found else ()
    prototype = f"{anonymous_formula(row.numbers)}_{number}_{primitive}"
    return SymmetryFound(number, primitive, orbits, prototype, f"{number}: {', '.join(orbits)}")


def _orbits(found) -> tuple[str, ...]:
    """`crystallographic_orbits` labels the sites of the given cell; counts are brought to the conventional one."""
    in_cell = Counter(found.crystallographic_orbits.tolist())
    ratio = len(found.std_types) / len(found.crystallographic_orbits)
    names = ((round(count * ratio), found.site_symmetry_symbols[site]) for site, count in in_cell.items())
    return tuple(f"{multiplicity} {name}" for multiplicity, name in sorted(names))


def symmetries(rows: Sequence[Entry], *, symprec_angstrom: float = 0.1, processes: int = 2) -> list[SymmetryFound]:
    """`symmetry` of each row, in order.

    `processes`, as `data.parallel` has them, are started for more than 2,000 rows.
    """
    work = partial(symmetry, symprec_angstrom=symprec_angstrom)
    plain = [row._replace(properties={}, site_properties={}) for row in rows]
    return parallel.each(work, plain, processes, inline=_INLINE_ROWS)


def chemical_system(numbers: np.ndarray) -> str:
    """The elements in alphabetical order, such as `Ca-O-Ti`."""
    return "-".join(sorted(SYMBOLS[z - 1] for z in counts(numbers)))


# Descriptor spaces


def mean_distances(rows: Sequence[Entry]) -> np.ndarray:
    """Average k-th neighbor distance over all sites, in units of the free length: (m, k), elements forgotten.

    Average minimum distances (Widdowson et al., MATCH 87, 529, 2022): equal for crystals that differ by their elements
    and by a common scale alone.
    """
    dataset = from_entries(rows)
    free_length = np.cbrt(np.abs(np.linalg.det(dataset.lattice.astype(float))) / dataset.num_atoms)
    found = np.empty((len(dataset), NEIGHBORS))

    def put(index: np.ndarray, distance: np.ndarray) -> None:
        found[index] = distance.mean(1) / free_length[index][:, None]

    map_neighbor_distances(dataset, NEIGHBORS, put)
    return found


def element_fractions(rows: Sequence[Entry]) -> np.ndarray:
    """The share of each element H..Fm among the sites: (m, 100)."""
    count = [np.bincount(np.asarray(row.numbers, int) - 1, minlength=len(SYMBOLS)) for row in rows]
    return np.stack(count) / np.array([len(row.numbers) for row in rows])[:, None]


SPACES = {"structure": mean_distances, "composition": element_fractions}
"""Descriptor space -> function from crystals to vectors (m, d); Euclidean distances in it."""


def components(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Connected components of "closer than `distance`" (single linkage): (m,) labels 0, 1, ... by first member.

    Two vectors of different components are at least `distance` apart. Memory grows with m, time with m² at worst.
    """
    from scipy.spatial.distance import cdist

    label = np.full(len(vectors), -1)
    left = np.arange(len(vectors))
    for name in range(len(vectors)):
        if not len(left):
            break
        frontier, left = left[:1], left[1:]
        while len(frontier):
            label[frontier] = name
            near = np.zeros(len(left), bool)
            for part in np.array_split(frontier, -(-len(frontier) // 256)):
                near[~near] = (cdist(vectors[part], vectors[left[~near]]) < distance).any(0)
            frontier, left = left[near], left[~near]
    return label


def k_means(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Lloyd's k-means from k-means++ starts (Arthur & Vassilvitskii 2007): (m,) labels, the same for the same seed."""
    from scipy.cluster.vq import kmeans2

    distinct = np.unique(vectors, axis=0)
    if not 1 <= clusters <= len(distinct):
        raise ValueError(f"clusters: expected 1 to {len(distinct)}, the number of distinct descriptors, got {clusters}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is no harm to a split
        return kmeans2(vectors, clusters, iter=30, minit="++", rng=np.random.default_rng(seed))[1]

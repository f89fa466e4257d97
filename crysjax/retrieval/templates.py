"""Templates: known structures that carry another composition's atoms, the nearest chemistry first.

A training structure of the same stoichiometry whose elements are close to the wanted ones is a strong guess at a
structure, without any learning: the floor of crystal structure prediction (`retrieval/floors`), and where the
retrieval-based flow starts (`generators/retrieval`).
"""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crysjax.chemistry.elements import counts
from crysjax.data.datasets import Dataset, Entry, entries, from_entries

if TYPE_CHECKING:
    from pymatgen.core import Element as PeriodicElement


def nearest_templates(
    train: Dataset, queries: Dataset, *, tries: int = 1, own: np.ndarray | None = None, seed: int = 0,
    elements: np.ndarray | None = None,
) -> list[Dataset]:  # fmt: skip
    """The `tries` nearest templates of each row, nearest first, carrying the row's atoms.

    A template has the same stoichiometry pattern and number of atoms. Elements of equal count may be assigned in
    every order; the cost is the sum over atoms of the squared distance between the old and the new element
    (`element_distance`, or that of `elements`). The cell is rescaled by the cubes of the atomic radii.

    Properties of a candidate: `found` (0: there is none, all atoms in one place of a cube) and `distance`, the cost an
    atom; of its sites: `was`, the atomic number that the template had there.

    Args:
        own: (m,) the training structure that a query is itself, which is left out; -1 = none.
        seed: of the order of equally near ones.
        elements: (100, d) points whose squared distances count instead, such as `element_metric.learned`.
    """
    templates, patterns = entries(train), defaultdict(list)
    for i, row in enumerate(templates):
        patterns[pattern_of(row)].append(i)
    tables = {pattern: np.array([species_of(templates[i]) for i in index]) for pattern, index in patterns.items()}
    ranks: list[list[Entry]] = [[] for _ in range(tries)]
    rng = np.random.default_rng(seed)
    apart = element_distance() if elements is None else _squared(np.asarray(elements, float))
    for k, row in enumerate(entries(queries)):
        pattern = pattern_of(row)
        index = patterns[pattern]
        found = _ranked(species_of(row), tables.get(pattern), pattern, tries + 1, rng, apart)
        found = [(index[place], cost, order) for place, cost, order in found if own is None or index[place] != own[k]]
        for rank, column in enumerate(ranks):
            if rank < len(found):
                i, cost, order = found[rank]
                given = substituted(row, templates[i], dict(zip(species_of(templates[i]), order)))
                column.append(given._replace(properties=given.properties | {"distance": cost / len(row.numbers)}))
            else:
                column.append(candidate(row, None, row.numbers))
    return [from_entries(rows, provenance={"template": "nearest", "rank": i}) for i, rows in enumerate(ranks)]


def _ranked(
    species: tuple[int, ...],
    table: np.ndarray | None,
    pattern: tuple[int, ...],
    tries: int,
    rng: np.random.Generator,
    distance: np.ndarray,
) -> list[tuple[int, float, tuple[int, ...]]]:
    """(row of the table, cost, species in that row's order) of the cheapest assignments; one a template."""
    if table is None:
        return []
    weight = np.array(pattern, float)
    orders = orders_of(species, pattern)
    costs = np.stack([(distance[table - 1, np.array(order)[None] - 1] * weight[None]).sum(-1) for order in orders])
    best = costs.argmin(0)
    cheapest = costs.min(0)
    shuffled = rng.permutation(len(cheapest))  # equally near ones, such as polymorphs, in random order
    nearest = shuffled[np.argsort(cheapest[shuffled], kind="stable")[:tries]]
    return [(int(i), float(cheapest[i]), orders[best[i]]) for i in nearest]


def orders_of(species: tuple[int, ...], pattern: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every order of the species that permutes only those of equal count."""
    blocks = [[s for s, c in zip(species, pattern) if c == count] for count in sorted(set(pattern))]
    products = itertools.product(*(itertools.permutations(block) for block in blocks))
    return [tuple(itertools.chain(*product)) for product in products]


def species_of(row: Entry) -> tuple[int, ...]:
    """Atomic numbers, rarest first."""
    return tuple(z for z, _ in sorted(counts(row.numbers, reduce=False).items(), key=lambda item: item[::-1]))


def pattern_of(row: Entry) -> tuple[int, ...]:
    """Atoms a species, rarest first."""
    return tuple(sorted(counts(row.numbers, reduce=False).values()))


@lru_cache(maxsize=1)
def element_table() -> np.ndarray:
    """Mendeleev number, electronegativity and atomic radius of H..Fm, each standardized; unknown = mean: (100, 3)."""
    from pymatgen.core import Element

    elements = [Element.from_Z(z) for z in range(1, 101)]
    no_electronegativity = {2, 10, 18}  # pymatgen warns for these
    raw = [[e.mendeleev_no, np.nan if e.Z in no_electronegativity else e.X, _radius(e)] for e in elements]
    table = np.array(raw, float)
    table = (table - np.nanmean(table, 0)) / np.nanstd(table, 0)
    return np.nan_to_num(table)


@lru_cache(maxsize=1)
def element_distance() -> np.ndarray:
    """Squared distance between elements in `element_table`: (100, 100)."""
    return _squared(element_table())


def _squared(points: np.ndarray) -> np.ndarray:
    """Squared distances of points (m, d): (m, m)."""
    return ((points[:, None] - points[None]) ** 2).sum(-1)


@lru_cache(maxsize=1)
def spheres() -> np.ndarray:
    """The cubes of the atomic radii of H..Fm in Å^3, the median where none is known: (100,)."""
    from pymatgen.core import Element

    radii = np.array([_radius(Element.from_Z(z)) for z in range(1, 101)])
    return np.where(np.isnan(radii), np.nanmedian(radii), radii) ** 3


def _radius(element: PeriodicElement) -> float:
    """Atomic radius in Å, NaN where neither a measured nor a calculated one is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns for each element without one
        return float(element.atomic_radius or element.atomic_radius_calculated or np.nan)


def substituted(row: Entry, template: Entry, mapping: dict[int, int]) -> Entry:
    """The template with its species mapped and its cell scaled by the volume of the spheres."""
    return candidate(row, template, np.array([mapping[z] for z in template.numbers.tolist()]))


def candidate(row: Entry, template: Entry | None, numbers: np.ndarray) -> Entry:
    """The template carrying `numbers`; without a template the row's species in one place of a cube, not `found`."""
    if template is None:
        lattice = np.eye(3) * (20.0 * len(numbers)) ** (1 / 3)
        return Entry(row.id, numbers, np.zeros((len(numbers), 3)), lattice, {"found": 0.0}, {"was": numbers})
    size = spheres()
    ratio = size[numbers - 1].sum() / size[template.numbers - 1].sum()
    cell, was = template.lattice * ratio ** (1 / 3), {"was": template.numbers}
    return Entry(row.id, numbers, template.frac, cell, {"found": 1.0}, was)

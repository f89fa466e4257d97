"""No-learning baselines of crystal structure prediction: the bar that a learned generator has to clear.

Each floor takes a training and a test set and returns one candidate a test row, with that row's composition. Its
property `found` is 1, or 0 where the floor has nothing to offer (the row then counts as not matched; see
`matching.match_pairs`). Several tries: call with several seeds or, for the nearest template, several ranks.
"""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crysjax.data.datasets import Dataset, Entry, entries, from_entries
from crysjax.data.elements import counts, formula

if TYPE_CHECKING:
    from pymatgen.core import Element as PeriodicElement


def random_template(train: Dataset, test: Dataset, *, seed: int = 0) -> Dataset:
    """A random training structure of the same stoichiometry and size, its species substituted at random.

    Elements are substituted by elements of equal count. Where no training structure has the row's stoichiometry, any
    of the same size carries the row's atoms in random order.
    """
    rng = np.random.default_rng(seed)
    templates, same = entries(train), defaultdict(list)
    for i, row in enumerate(templates):
        same[_pattern(row)].append(i)
        same[len(row.numbers)].append(i)
    rows = []
    for row in entries(test):
        index = same.get(_pattern(row)) or same.get(len(row.numbers))
        template = templates[index[rng.integers(len(index))]] if index else None
        rows.append(_drawn(row, template, rng))
    return from_entries(rows, provenance={"floor": "random template", "seed": seed})


def _drawn(row: Entry, template: Entry | None, rng: np.random.Generator) -> Entry:
    """The template with the row's species: by elements of equal count, or else atom by atom."""
    if template is None or _pattern(template) != _pattern(row):
        return _candidate(row, template, rng.permutation(row.numbers))
    orders = _orders(_species(row), _pattern(row))
    return _substituted(row, template, dict(zip(_species(template), orders[rng.integers(len(orders))])))


def twin(train: Dataset, test: Dataset) -> Dataset:
    """The training structure of the same composition with its two cations swapped, where one exists."""
    known = _first_by_formula(train)
    rows = [_swapped(row, known.get(formula(row.numbers, reduce=False))) for row in entries(test)]
    return from_entries(rows, provenance={"floor": "twin"})


def twin_or_nearest(train: Dataset, test: Dataset) -> Dataset:
    """The twin, and where none exists the nearest template with both cations substituted."""
    rows = zip(entries(twin(train, test)), entries(nearest_templates(train, test)[0]))
    chosen = [a if a.properties["found"] else b for a, b in rows]
    return from_entries(chosen, provenance={"floor": "twin, else nearest template"})


def nearest_template(train: Dataset, test: Dataset) -> Dataset:
    """The training structure of the same stoichiometry whose elements are nearest (see `nearest_templates`)."""
    return nearest_templates(train, test)[0]


def nearest_templates(train: Dataset, test: Dataset, *, tries: int = 1) -> list[Dataset]:
    """The `tries` nearest templates of each row, nearest first.

    A template has the same stoichiometry pattern and number of atoms. Elements of equal count may be assigned in
    every order; the cost is the sum over atoms of the squared distance between the old and the new element
    (`element_distance`). The cell is rescaled by the cubes of the atomic radii.
    """
    templates, patterns = entries(train), defaultdict(list)
    for i, row in enumerate(templates):
        patterns[_pattern(row)].append(i)
    tables = {pattern: np.array([_species(templates[i]) for i in index]) for pattern, index in patterns.items()}
    ranks: list[list[Entry]] = [[] for _ in range(tries)]
    for row in entries(test):
        pattern = _pattern(row)
        found = _ranked(_species(row), tables.get(pattern), pattern, tries)
        for rank, column in enumerate(ranks):
            if rank < len(found):
                place, species = found[rank]
                template = templates[patterns[pattern][place]]
                column.append(_substituted(row, template, dict(zip(_species(template), species))))
            else:
                column.append(_candidate(row, None, row.numbers))
    return [from_entries(rows, provenance={"floor": "nearest template", "rank": i}) for i, rows in enumerate(ranks)]


def _ranked(
    species: tuple[int, ...], table: np.ndarray | None, pattern: tuple[int, ...], tries: int
) -> list[tuple[int, tuple[int, ...]]]:
    """(row of the table, species in that row's order) of the cheapest assignments; one assignment a template."""
    if table is None:
        return []
    distance, weight = element_distance(), np.array(pattern, float)
    orders = _orders(species, pattern)
    costs = np.stack([(distance[table - 1, np.array(order)[None] - 1] * weight[None]).sum(-1) for order in orders])
    best = costs.argmin(0)
    nearest = np.argsort(costs.min(0), kind="stable")[:tries]
    return [(int(i), orders[best[i]]) for i in nearest]


def _orders(species: tuple[int, ...], pattern: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every order of the species that permutes only those of equal count."""
    blocks = [[s for s, c in zip(species, pattern) if c == count] for count in sorted(set(pattern))]
    products = itertools.product(*(itertools.permutations(block) for block in blocks))
    return [tuple(itertools.chain(*product)) for product in products]


def _species(row: Entry) -> tuple[int, ...]:
    """Atomic numbers, rarest first."""
    return tuple(z for z, _ in sorted(counts(row.numbers, reduce=False).items(), key=lambda item: item[::-1]))


def _pattern(row: Entry) -> tuple[int, ...]:
    """Atoms a species, rarest first."""
    return tuple(sorted(counts(row.numbers, reduce=False).values()))


@lru_cache(maxsize=1)
def element_table() -> np.ndarray:
    """Mendeleev number, electronegativity and atomic radius of H..Fm, each standardised; unknown = mean: (100, 3)."""
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
    table = element_table()
    return ((table[:, None] - table[None]) ** 2).sum(-1)


@lru_cache(maxsize=1)
def _radius_cubed() -> np.ndarray:
    from pymatgen.core import Element

    radii = np.array([_radius(Element.from_Z(z)) for z in range(1, 101)])
    return np.where(np.isnan(radii), np.nanmedian(radii), radii) ** 3


def _radius(element: PeriodicElement) -> float:
    """Atomic radius in Å, NaN where neither a measured nor a calculated one is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns for each element without one
        return float(element.atomic_radius or element.atomic_radius_calculated or np.nan)


def _substituted(row: Entry, template: Entry, mapping: dict[int, int]) -> Entry:
    """The template with its species mapped and its cell scaled by the volume of the spheres."""
    return _candidate(row, template, np.array([mapping[z] for z in template.numbers.tolist()]))


def _candidate(row: Entry, template: Entry | None, numbers: np.ndarray) -> Entry:
    """The template carrying `numbers`; without a template the row's species in one place of a cube, not `found`."""
    if template is None:
        lattice = np.eye(3) * (20.0 * len(numbers)) ** (1 / 3)
        return Entry(row.id, numbers, np.zeros((len(numbers), 3)), lattice, {"found": 0.0})
    spheres = _radius_cubed()
    ratio = spheres[numbers - 1].sum() / spheres[template.numbers - 1].sum()
    return Entry(row.id, numbers, template.frac, template.lattice * ratio ** (1 / 3), {"found": 1.0})


def _first_by_formula(dataset: Dataset) -> dict[str, Entry]:
    """The first structure of each composition and cell size."""
    found: dict[str, Entry] = {}
    for row in entries(dataset):
        found.setdefault(formula(row.numbers, reduce=False), row)
    return found


def _swapped(row: Entry, template: Entry | None) -> Entry:
    """The template with its two cations (the least electronegative elements) exchanged, if they are equally many."""
    if template is not None:
        amount = counts(template.numbers)
        cations = sorted(amount, key=lambda z: element_table()[z - 1, 1])[:2]
        if len(amount) > 2 and amount[cations[0]] == amount[cations[1]]:
            return _substituted(row, template, {z: z for z in amount} | dict(zip(cations, cations[::-1])))
    return _candidate(row, None, row.numbers)

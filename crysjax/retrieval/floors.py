"""No-learning baselines of crystal structure prediction: the bar that a learned generator has to clear.

Each floor takes a training and a test set and returns one candidate per test row, with that row's composition. Its
property `found` is 1, or 0 where the floor has nothing to offer (the row then counts as not matched; see
`matching.match_pairs`). Several tries: call with several seeds or, for the nearest template, several ranks.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from crysjax.chemistry.elements import counts, formula
from crysjax.data.datasets import Dataset, Entry, entries, from_entries
from crysjax.retrieval.templates import (
    candidate,
    element_table,
    nearest_templates,
    orders_of,
    pattern_of,
    species_of,
    substituted,
)


def random_template(train: Dataset, test: Dataset, *, seed: int = 0) -> Dataset:
    """A random training structure of the same stoichiometry and size, its species substituted at random.

    Elements are substituted by elements of equal count. Where no training structure has the row's stoichiometry, any
    of the same size carries the row's atoms in random order.
    """
    rng = np.random.default_rng(seed)
    templates, same = entries(train), defaultdict(list)
    for i, row in enumerate(templates):
        same[pattern_of(row)].append(i)
        same[len(row.numbers)].append(i)
    rows = []
    for row in entries(test):
        index = same.get(pattern_of(row)) or same.get(len(row.numbers))
        template = templates[index[rng.integers(len(index))]] if index else None
        rows.append(_drawn(row, template, rng))
    return from_entries(rows, provenance={"floor": "random template", "seed": seed})


def _drawn(row: Entry, template: Entry | None, rng: np.random.Generator) -> Entry:
    """The template with the row's species: by elements of equal count, or else atom by atom."""
    if template is None or pattern_of(template) != pattern_of(row):
        return candidate(row, template, rng.permutation(row.numbers))
    orders = orders_of(species_of(row), pattern_of(row))
    return substituted(row, template, dict(zip(species_of(template), orders[rng.integers(len(orders))])))


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


def nearest_template(train: Dataset, test: Dataset, *, seed: int = 0) -> Dataset:
    """The training structure of the same stoichiometry whose elements are nearest (see `retrieval/templates`).

    `seed` draws among equally near ones.
    """
    return nearest_templates(train, test, seed=seed)[0]


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
            return substituted(row, template, {z: z for z in amount} | dict(zip(cations, cations[::-1])))
    return candidate(row, None, row.numbers)

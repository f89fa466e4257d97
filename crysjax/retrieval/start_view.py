"""What the retrieval-based flow starts from, as arrays in the order of a pack (`Condition.start`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from crysjax.base import Start, Views
from crysjax.data import datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset

Rows = Callable[[np.ndarray, Capacity], Views]  # (members of a pack, its shape) -> their `start`


def start_view(asked: Dataset, candidates: Sequence[Dataset]) -> Rows:
    """The view of `k` sets of candidates, row i of each for crystal i, as `templates.nearest_templates` makes them.

    Leaves are (k, sites, ...) and (k, crystals, ...), sites in an order with the species of `asked`; slots without a
    crystal have the unit cell and nothing `found`.
    """
    ordered = [_with_species_of(asked, candidate) for candidate in candidates]

    def rows(members: np.ndarray, shape: Capacity) -> Views:
        each = [_rows(candidate, members, shape) for candidate in ordered]
        return Views(start=Start(*(np.stack(leaves) for leaves in zip(*each))))

    return rows


def _with_species_of(asked: Dataset, candidate: Dataset) -> Dataset:
    """The candidates with the sites of each in an order that gives them the species of `asked`."""
    row = np.repeat(np.arange(len(asked)), asked.num_atoms)
    order = np.empty(len(row), int)
    order[np.lexsort([asked.numbers, row])] = np.lexsort([candidate.numbers, row])
    if (candidate.numbers[order] != asked.numbers).any():
        raise ValueError("start_view: candidates of other compositions; expected row i of each to carry row i's atoms")
    sites = {name: values[order] for name, values in candidate.site_properties.items()}
    return replace(candidate, numbers=asked.numbers, frac=candidate.frac[order], site_properties=sites)


def _rows(candidate: Dataset, members: np.ndarray, shape: Capacity) -> Start:
    sites = datasets.site_index(candidate, members)
    properties = {name: np.nan_to_num(v[members]) for name, v in candidate.properties.items()}
    missing = np.zeros(len(members), np.float32)
    unit = np.tile(np.eye(3, dtype=np.float32), (shape.crystals, 1, 1))
    unit[: len(members)] = candidate.lattice[members]
    return Start(
        frac=_padded(candidate.frac[sites], shape.sites),
        lattice=unit,
        was=_padded(candidate.site_properties["was"][sites].astype(np.int32), shape.sites),
        found=_padded(properties["found"], shape.crystals),
        matched=_padded(properties.get("matched", missing), shape.crystals),
    )


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), values.dtype)])


def pairs_view(dataset: Dataset) -> Rows:
    """The view of a data set that `crysjax data pairs` made: the start of every row is its only candidate."""
    if "start_frac" not in dataset.site_properties:
        raise ValueError(
            "data: the retrieval-based flow learns from pairs of a start and a truth, and this set has none; "
            "expected a file that `crysjax data pairs` made"
        )
    of_sites = dataset.site_properties
    first = datasets.offsets(dataset)[:-1]
    start = replace(dataset, frac=of_sites["start_frac"], lattice=of_sites["start_lattice"][first])
    return start_view(dataset, [start])

"""Pairs to learn retrieval from: what a look-up would have started from, and what it should have come to.

For every crystal its nearest templates in the training set are retrieved as if the crystal were not known
(leave-one-out). Where a template has the right structure, the crystal is expressed in the template's cell, origin and
order of sites, so that a flow can learn the way from one to the other; where it has not, the pair teaches which
templates to reject.
"""

from __future__ import annotations

import numpy as np

from crysjax.crystallography.equivalence import CDVAE, onto
from crysjax.crystallography.lattice_match import mappable
from crysjax.data import datasets, parallel
from crysjax.data.datasets import Dataset, Entry
from crysjax.retrieval import templates

FEW = 64  # crystals that start no process


def pairs(
    train: Dataset, queries: Dataset, *, tries: int = 5, own: np.ndarray | None = None, processes: int = 2
) -> Dataset:
    """The queries, once for each of their `tries` nearest templates in `train`, with that template beside them.

    Site properties: `start_frac`, `start_lattice` (of the crystal that a site belongs to) and `was`, the template's
    atomic number. Properties: `distance` (see `templates.nearest_templates`), `matched`, 1 where the template has the
    query's structure by CDVAE's matcher, and `rms`, how far they are apart. `found` is 1: a query without a template
    has no row.

    Args:
        own: (m,) which training crystal a query is itself; -1 for one that is not among them.
    """
    ranks = [datasets.entries(d) for d in templates.nearest_templates(train, queries, tries=tries, own=own)]
    tasks = list(zip(datasets.entries(queries), zip(*ranks)))
    rows = [row for found in parallel.each(_pairs, tasks, processes, inline=FEW) for row in found]
    about = f"{tries} nearest templates of {len(queries)} crystals among {len(train)}, leave-one-out"
    return datasets.from_entries(rows, provenance=train.provenance | {"pairs": about})


def _pairs(task: tuple[Entry, tuple[Entry, ...]]) -> list[Entry]:
    """The truth beside every candidate that was found, in its basis where they match."""
    truth, candidates = task
    candidates = [row for row in candidates if row.properties["found"]]
    lattices = np.array([row.lattice for row in candidates]).reshape(-1, 3, 3)
    possible = mappable(truth.lattice, lattices, ltol=CDVAE.ltol, angle_degree=CDVAE.angle_degree)
    return [_beside(start, truth, onto(start, truth) if may else None) for start, may in zip(candidates, possible)]


def _beside(start: Entry, truth: Entry, found: tuple[float, Entry] | None) -> Entry:
    rms, truth = found or (np.nan, _in_order(truth, start))
    facts = start.properties | {"matched": float(found is not None), "rms": rms}
    lattice = np.broadcast_to(start.lattice, (len(start.numbers), 3, 3))
    sites = start.site_properties | {"start_frac": start.frac, "start_lattice": lattice}
    return truth._replace(properties=truth.properties | facts, site_properties=sites)


def _in_order(truth: Entry, start: Entry) -> Entry:
    """The truth with its sites in an order that gives them the start's species; which of these does not matter."""
    sites = np.empty(len(truth.numbers), int)
    sites[np.argsort(start.numbers, kind="stable")] = np.argsort(truth.numbers, kind="stable")
    return truth._replace(numbers=truth.numbers[sites], frac=truth.frac[sites])

"""Are two crystals the same? Match rates, clusters and novelty by pymatgen's StructureMatcher.

Tolerances default to CDVAE's (Xie et al. 2022, stol 0.5, angle 10°, ltol 0.3), which every crystal structure
prediction paper since uses; the RMS is normalised by (volume / sites)^(1/3). Answers equal those of a plain
`StructureMatcher` call for call: a structure is reduced (Niggli, primitive) once instead of once a pair, and pairs
whose reduced cells differ in composition, which can never match, are not tried.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.data.elements import formula
from crysjax.data.equivalence import CDVAE, Tolerance, fits, reduced, rms

_INLINE_PAIRS = 64  # fewer are done before a second process has started


class MatchResult(NamedTuple):
    """`rms[i, j]` of candidate `j` of row `i`, NaN where it does not match its reference: (m, k)."""

    rms: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The smallest RMS of each row, NaN where no candidate matches: (m,)."""
        smallest = np.where(np.isnan(self.rms), np.inf, self.rms).min(axis=1)
        return np.where(np.isinf(smallest), np.nan, smallest)

    @property
    def rate(self) -> float:
        """The share of rows with a match."""
        return float(np.isfinite(self.best).mean())

    @property
    def rmse(self) -> float:
        """The mean over matched rows of the best RMS (the field's "RMSE"); NaN if nothing matches."""
        matched = self.best[np.isfinite(self.best)]
        return float(matched.mean()) if len(matched) else float("nan")


def match_pairs(
    references: Dataset,
    candidates: Dataset | Sequence[Dataset],
    *,
    tolerance: Tolerance = CDVAE,
    processes: int = 2,
) -> MatchResult:
    """Match row `i` of every candidate set to row `i` of the references.

    A candidate whose property `found` is 0 counts as no candidate. Two processes are started with "spawn", so a
    script that calls this needs the usual `if __name__ == "__main__"` guard; `processes=1` starts none.
    """
    sets = [candidates] if isinstance(candidates, Dataset) else list(candidates)
    wrong = [len(c) for c in sets if len(c) != len(references)]
    if wrong or not sets:
        raise ValueError(f"match_pairs: {len(references)} references, but candidate sets of {wrong or 'nothing'}")
    rows = zip(entries(references), *map(entries, sets))
    rms = _parallel(partial(_match_rows, tolerance=tolerance), list(rows), processes)
    return MatchResult(np.array(rms, float))


def groups(dataset: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> np.ndarray:
    """Clusters of equal structures, as `StructureMatcher.group_structures` makes them: (m,) the first member's index.

    The number of distinct values is the number of unique structures.
    """
    rows = entries(dataset)
    labels = np.arange(len(rows))
    tasks = [[(i, rows[i]) for i in bucket] for bucket in _by_formula(rows).values()]
    for group in _parallel(partial(_cluster, tolerance=tolerance), tasks, processes):
        for i, first in group:
            labels[i] = first
    return labels


def novel(dataset: Dataset, reference: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> np.ndarray:
    """Whether each structure equals none of the reference set: (m,) bool. Only the same reduced formula is compared."""
    known = entries(reference)
    same = _by_formula(known)
    tasks = [(row, [known[i] for i in same.get(formula(row.numbers), [])]) for row in entries(dataset)]
    return np.array(_parallel(partial(_is_novel, tolerance=tolerance), tasks, processes), bool)


def _by_formula(rows: Iterable[Entry]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for i, row in enumerate(rows):
        found[formula(row.numbers)].append(i)
    return found


# Work of one process


def _parallel(function, tasks: list, processes: int) -> list:
    """`[function(task) for task in tasks]` over processes, in order."""
    processes = min(processes, os.cpu_count() or 1)
    if processes < 2 or len(tasks) < _INLINE_PAIRS:
        return [function(task) for task in tasks]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, tasks, chunksize=max(1, min(64, len(tasks) // (4 * processes)))))


def _match_rows(row: tuple[Entry, ...], tolerance: Tolerance) -> list[float]:
    """The RMS of each candidate of one row to its reference, which comes first."""
    reference, *candidates = row
    usable = [c.properties.get("found", 1.0) != 0 and _same(reference, c) for c in candidates]
    if not any(usable):
        return [np.nan] * len(candidates)
    first = reduced(reference)
    return [rms(reduced(c), first, tolerance) if ok else np.nan for c, ok in zip(candidates, usable)]


def _cluster(members: list[tuple[int, Entry]], tolerance: Tolerance) -> list[tuple[int, int]]:
    """(index, index of the cluster's first) of structures of one reduced formula; a cluster compares to its first."""
    firsts, labels = [], []
    for i, row in members:
        structure = reduced(row)
        match = next((j for j, other in firsts if fits(other, structure, tolerance)), None)
        firsts += [(i, structure)] if match is None else []
        labels.append((i, i if match is None else match))
    return labels


def _is_novel(task: tuple[Entry, list[Entry]], tolerance: Tolerance) -> bool:
    row, known = task
    return not known or not any(fits(reduced(row), reduced(other), tolerance) for other in known)


def _same(a: Entry, b: Entry) -> bool:
    return formula(a.numbers) == formula(b.numbers)

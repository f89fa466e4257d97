"""Are two crystals the same? Match rates, clusters and novelty by pymatgen's StructureMatcher.

Tolerances default to CDVAE's (Xie et al. 2022, stol 0.5, angle 10°, ltol 0.3), which every crystal structure prediction
paper since uses; the RMS is normalized by (volume / sites)^(1/3). Answers equal those of a plain `StructureMatcher`
call for call: a structure is reduced (Niggli, primitive) once instead of once per pair, and pairs whose reduced cells
differ in composition or cannot be mapped onto one another are not tried (`crystallography/equivalence`).

More than one process: the others are started with "spawn", so a script needs the usual `if __name__ == "__main__"`
guard, and only where there is enough to do for it to pay; `processes=1` starts none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.crystallography.equivalence import CDVAE, Tolerance, matches, primitive, rms
from crysjax.data import parallel
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.data.readers.convert import to_structure

Members = list[tuple[int, Entry]]  # rows by their index, in their primitive cells
_INLINE = 1000  # fewer reductions or pairs are done before a second process has started
_STRIPES = 8  # parts a process of the pairs of one composition, so that all processes end together


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

    A candidate whose property `found` is 0 counts as no candidate.
    """
    sets = [candidates] if isinstance(candidates, Dataset) else list(candidates)
    wrong = [len(c) for c in sets if len(c) != len(references)]
    if wrong or not sets:
        raise ValueError(f"match_pairs: {len(references)} references, but candidate sets of {wrong or 'nothing'}")
    truth, found = entries(references), np.full((len(references), len(sets)), np.nan)
    columns = list(map(entries, sets))
    pairs = [(i, j) for i in range(len(truth)) for j, rows in enumerate(columns) if _comparable(truth[i], rows[i])]
    with _workers(processes) as run:
        cells = primitive([row for i, j in pairs for row in (truth[i], columns[j][i])], run)
        values = run(partial(_rms, tolerance=tolerance), list(zip(cells[1::2], cells[::2])))
    for pair, value in zip(pairs, values):
        found[pair] = value
    return MatchResult(found)


def groups(dataset: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> np.ndarray:
    """Clusters of equal structures, as `StructureMatcher.group_structures` makes them: (m,) the first member's index.

    The number of distinct values is the number of unique structures.
    """
    labels = np.arange(len(dataset))
    with _workers(processes) as run:
        tasks = _with_company(entries(dataset), run)
        for group in run(partial(_cluster, tolerance=tolerance), tasks, sum(map(_pairs, tasks))):
            for i, first in group:
                labels[i] = first
    return labels


def pair_matrix(dataset: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> np.ndarray:
    """Which pairs are equal: (m, m) bool; [i, j] and [j, i] are `StructureMatcher.fit(i, j)` of i < j.

    `fit` can differ from its reverse near the tolerances; the earlier comes first here, as in `groups`.
    """
    equal = np.eye(len(dataset), dtype=bool)
    with _workers(processes) as run:
        together = _with_company(entries(dataset), run)
        parts = min(processes * _STRIPES, max(map(len, together), default=1))
        tasks = [(members, (k, parts)) for members in together for k in range(min(parts, len(members)))]
        for pairs in run(partial(_equal_pairs, tolerance=tolerance), tasks, sum(map(_pairs, together))):
            for i, j in pairs:
                equal[i, j] = equal[j, i] = True
    return equal


def novel(dataset: Dataset, reference: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> np.ndarray:
    """Whether each structure equals none of the reference set: (m,) bool. Only the same reduced formula is compared."""
    return same_as(dataset, reference, tolerance=tolerance, processes=processes) < 0


def same_as(dataset: Dataset, reference: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> np.ndarray:
    """The first row of the reference set that each structure equals, -1 where there is none: (m,) int."""
    rows, known = entries(dataset), entries(reference)
    names, others = ([formula(row.numbers) for row in part] for part in (rows, known))
    shared, same = set(names) & set(others), np.full(len(rows), -1)
    with _workers(processes) as run:
        asked = _by_composition(rows, [i for i, name in enumerate(names) if name in shared], run)
        there = _by_composition(known, [i for i, name in enumerate(others) if name in shared], run)
        tasks = [(members, there[key]) for key, members in asked.items() if key in there]
        work = sum(len(members) * len(cells) for members, cells in tasks)
        for found in run(partial(_seen, tolerance=tolerance), tasks, work):
            for i, j in found:
                same[i] = j
    return same


def _with_company(rows: list[Entry], run: Callable) -> list[Members]:
    """Rows in their primitive cells, those of one composition together; rows without company are left out."""
    names = [formula(row.numbers) for row in rows]
    count = Counter(names)
    found = _by_composition(rows, [i for i, name in enumerate(names) if count[name] > 1], run)
    return sorted((members for members in found.values() if len(members) > 1), key=len, reverse=True)


def _by_composition(rows: list[Entry], chosen: list[int], run: Callable) -> dict[bytes, Members]:
    """The primitive cells of the chosen rows by their atoms: cells of other atoms never match."""
    found = defaultdict(list)
    for i, cell in zip(chosen, primitive([rows[i] for i in chosen], run)):
        found[np.sort(cell.numbers).tobytes()].append((i, cell))
    return found


def _comparable(reference: Entry, candidate: Entry) -> bool:
    there = candidate.properties.get("found", 1.0) != 0
    return there and formula(reference.numbers) == formula(candidate.numbers)


def _pairs(members: Members) -> int:
    return len(members) * (len(members) - 1) // 2


# Work of one process


def _workers(processes: int) -> AbstractContextManager[Callable]:
    """`run(function, tasks, work=number of tasks)`, the list of answers in order; processes start once, if it pays."""
    return parallel.workers(processes, _INLINE)


def _rms(pair: tuple[Entry, Entry], tolerance: Tolerance) -> float:
    """The RMS of two primitive cells."""
    return rms(*map(to_structure, pair), tolerance)


def _cluster(members: Members, tolerance: Tolerance) -> list[tuple[int, int]]:
    """(index, index of the cluster's first) of cells of one composition; a cluster compares to its first."""
    labels, rest = [], members
    while rest:
        (i, first), *rest = rest
        same = set(matches(first, [cell for _, cell in rest], tolerance))
        labels += [(i, i), *((rest[k][0], i) for k in same)]
        rest = [member for k, member in enumerate(rest) if k not in same]
    return labels


def _equal_pairs(task: tuple[Members, tuple[int, int]], tolerance: Tolerance) -> list[tuple[int, int]]:
    """(i, j) of the equal pairs of one composition whose first is member `start`, `start + step`, ..."""
    members, (start, step) = task
    found = []
    for k in range(start, len(members), step):
        (i, first), later = members[k], members[k + 1 :]
        found += [(i, later[n][0]) for n in matches(first, [cell for _, cell in later], tolerance)]
    return found


def _seen(task: tuple[Members, Members], tolerance: Tolerance) -> list[tuple[int, int]]:
    """(index, index of the first known one that it equals) of the members that equal a known cell."""
    members, known = task
    cells = [cell for _, cell in known]
    found = ((i, next(matches(cell, cells, tolerance), None)) for i, cell in members)
    return [(i, known[n][0]) for i, n in found if n is not None]

"""Structures that come twice: equal up to rounding, or nearly, within one split and across two.

The fingerprint proposes, for every row, known structures of the same reduced formula; StructureMatcher decides. It has
to: a fingerprint that forgets which element a neighbor is cannot tell polytypes and orderings apart. Where there are
more proposals than `limit`, that many are drawn and the count is scaled by the share that was confirmed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.crystallography.equivalence import Tolerance, reduced, rms
from crysjax.crystallography.fingerprints import fingerprint
from crysjax.crystallography.grouping import components
from crysjax.data.datasets import Entry

SAME = Tolerance(stol=0.3, angle_degree=5.0, ltol=0.2)  # pymatgen's defaults
EQUAL = 1e-3  # of the free length, of a third of the volume, and RMS: rounding of files, not another structure
NEAR = 0.1  # of the free length: a proposal; displacements of up to half of it are always found
NEAR_VOLUME = 0.1  # relative
EQUAL_RMS = 0.01  # of the free length, between structures that are called exact duplicates
_NEIGHBORS = 4


class KnownRows(NamedTuple):
    """Structures of one formula, searchable by fingerprint."""

    rows: list[Entry]
    tree: object  # scipy cKDTree of flattened fingerprints, maximum norm
    volume: np.ndarray  # (m,) Å³ per atom


class Candidate(NamedTuple):
    """A row and the known structures that it may repeat, nearest first."""

    row: Entry
    others: list[Entry]
    distance: float  # to the nearest, in free lengths


def known(rows: list[Entry]) -> KnownRows:
    """The structures of one formula, made searchable."""
    from scipy.spatial import cKDTree

    return KnownRows(rows, cKDTree(np.stack([flat(row) for row in rows])), np.array([volume(row) for row in rows]))


def flat(row: Entry) -> np.ndarray:
    return fingerprint(row).reshape(-1)


def volume(row: Entry) -> float:
    """Å³ per atom."""
    return abs(np.linalg.det(np.asarray(row.lattice, float))) / len(row.numbers)


def by_formula(rows: Sequence[Entry]) -> dict[str, list[Entry]]:
    found = defaultdict(list)
    for row in rows:
        found[formula(row.numbers)].append(row)
    return found


def across(targets: Sequence[Entry], index: dict[str, KnownRows], *, limit: int, seed: int) -> dict:
    """Near and exact duplicates of `targets` (which all have a known formula) among the known structures."""
    near = [p for row in targets if (p := _propose(row, index[formula(row.numbers)]))]
    return _judged(near, [p for p in near if _equal(p)], limit=limit, seed=seed)


def within(index: dict[str, KnownRows], *, limit: int, seed: int) -> dict:
    """The same among the rows of one split: rows that nearly repeat another, and exact repeats of an earlier row."""
    groups = [group for group in index.values() if len(group.rows) > 1]
    near = [p for group in groups for i in range(len(group.rows)) if (p := _propose(group.rows[i], group, skip=i))]
    return _judged(near, [p for group in groups for p in _repeats(group)], limit=limit, seed=seed)


def _propose(row: Entry, group: KnownRows, skip: int = -1) -> Candidate | None:
    """The nearest known structures, closer than NEAR and of nearly the same volume; `skip` is the row itself."""
    distance, place = group.tree.query(flat(row), k=_NEIGHBORS, p=np.inf, distance_upper_bound=NEAR)
    found = [(d, j) for d, j in zip(distance, place) if np.isfinite(d) and j != skip]
    found = [(d, j) for d, j in found if abs(group.volume[j] / volume(row) - 1) < NEAR_VOLUME]
    return Candidate(row, [group.rows[j] for _, j in found], float(found[0][0])) if found else None


def _equal(proposal: Candidate) -> bool:
    return proposal.distance < EQUAL and any(
        abs(volume(other) / volume(proposal.row) - 1) < 3 * EQUAL for other in proposal.others
    )


def _repeats(group: KnownRows) -> list[Candidate]:
    """Later members of each set of equal fingerprints and volumes, with the set's first member."""
    label = components(np.column_stack([group.tree.data, np.log(group.volume) / 3]), EQUAL)
    _, first = np.unique(label, return_index=True)
    return [Candidate(group.rows[i], [group.rows[j]], 0.0) for i, j in enumerate(first[label].tolist()) if i != j]


def _judged(near: list[Candidate], equal: list[Candidate], *, limit: int, seed: int) -> dict:
    """Counts of confirmed near and exact duplicates, and the worst pairs."""
    near_pairs, near_checked = _confirmed(near, limit, seed)
    equal_pairs, equal_checked = _confirmed(equal, limit, seed)
    exact = [pair for pair in equal_pairs if pair["rms"] < EQUAL_RMS]
    pairs = {tuple(sorted((pair["id"], pair["known"]))): pair for pair in near_pairs + exact}
    return {
        "near_proposed": len(near),
        "near_checked": near_checked,
        "near_duplicates": round(len(near) * len(near_pairs) / max(near_checked, 1)),
        "exact_proposed": len(equal),
        "exact_checked": equal_checked,
        "exact_duplicates": round(len(equal) * len(exact) / max(equal_checked, 1)),
        "worst_pairs": sorted(pairs.values(), key=lambda pair: pair["rms"])[:5],
    }


def _confirmed(proposals: list[Candidate], limit: int, seed: int) -> tuple[list[dict], int]:
    """The proposals, at most `limit` drawn, that match one of their structures, and how many were tried."""
    drawn = np.random.default_rng(seed).permutation(len(proposals))[:limit]
    pairs = [pair for i in drawn if (pair := _match(proposals[i]))]
    return pairs, len(drawn)


def _match(proposal: Candidate) -> dict | None:
    mine = reduced(proposal.row)
    for other in proposal.others:
        value = rms(reduced(other), mine, SAME)
        if np.isfinite(value):
            return {"id": proposal.row.id, "known": other.id, "formula": formula(other.numbers), "rms": value}
    return None

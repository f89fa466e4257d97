"""Space groups of crystals by spglib, at several tolerances, over processes.

The answers are those of pymatgen's SpacegroupAnalyzer with the same tolerances. The default tolerance, 0.1 Å, is
MatterGen's (Zeni et al. 2025) and the Materials Project's; a generated structure that was not relaxed often has a
lower group at 0.01 Å, which is why the tolerance belongs beside every number made of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from crysjax.crystallography import symmetry_finder
from crysjax.data import parallel
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.data.readers import limits
from crysjax.evaluation.metrics.distributions import Interval, interval

TOLERANCE_ANGSTROM = 0.1
ANGLE_TOLERANCE_DEGREE = 5.0

CRYSTAL_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
_LAST = np.array([2, 15, 74, 142, 167, 194, 230])  # the last space group of each

_CHUNK = 64  # crystals handed to a process at a time
_INLINE = 512  # fewer are done before a second process has started


class SpaceGroups(NamedTuple):
    """Space groups of `m` crystals at `k` tolerances; 0 where spglib found none, with the reason."""

    tolerance_angstrom: np.ndarray  # (k,)
    number: np.ndarray  # (m, k) int32, 1..230 or 0
    reason: np.ndarray  # (m, k) str, "" where there is a number


def space_groups(
    dataset: Dataset,
    *,
    tolerance_angstrom: float | Sequence[float] = TOLERANCE_ANGSTROM,
    angle_tolerance_degree: float = ANGLE_TOLERANCE_DEGREE,
    processes: int = 2,
) -> SpaceGroups:
    """The space group number of each crystal at each tolerance.

    Processes start with "spawn", so a script that calls this needs the usual `if __name__ == "__main__"` guard;
    `processes=1` starts none.
    """
    tolerances = np.atleast_1d(np.asarray(tolerance_angstrom, float))
    if not (len(tolerances) and ((tolerances > 0) & (tolerances <= limits.TOLERANCE_ANGSTROM)).all()):
        expected = f"expected positive numbers up to {limits.TOLERANCE_ANGSTROM:g} Å"
        raise ValueError(f"space_groups: tolerance_angstrom {tolerances.tolist()}, {expected}")
    find = partial(_of_rows, tolerances=tolerances.tolist(), angle=angle_tolerance_degree)
    rows = entries(dataset)
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    parts = parallel.each(find, chunks, processes, inline=_INLINE + 1, work=len(rows))
    found = [answer for part in parts for answer in part]
    number = np.array([[n for n, _ in row] for row in found], np.int32)
    return SpaceGroups(tolerances, number, np.array([[said for _, said in row] for row in found]))


def _of_rows(rows: list[Entry], tolerances: list[float], angle: float) -> list[list[tuple[int, str]]]:
    return [[space_group(row, tolerance_angstrom=t, angle_tolerance_degree=angle) for t in tolerances] for row in rows]


def space_group(
    row: Entry,
    *,
    tolerance_angstrom: float = TOLERANCE_ANGSTROM,
    angle_tolerance_degree: float = ANGLE_TOLERANCE_DEGREE,
) -> tuple[int, str]:
    """The space group number of one crystal and ""; or 0 and why there is none."""
    if not 0 < angle_tolerance_degree <= 30:
        raise ValueError(f"angle_tolerance_degree: {angle_tolerance_degree}; expected more than 0, at most 30 degrees")
    cell = row.lattice, row.frac, row.numbers
    found, reason = symmetry_finder.ask(
        "get_symmetry_dataset", cell, tolerance_angstrom, angle_tolerance=angle_tolerance_degree
    )
    return (0, reason) if found is None else (int(found.number), "")


def crystal_system(number: np.ndarray) -> np.ndarray:
    """The crystal system of space group numbers, any shape: str, "" for 0."""
    number = np.asarray(number)
    if ((number < 0) | (number > 230)).any():
        raise ValueError("crystal_system: space group numbers are 1..230, or 0 for none")
    names = np.array([*CRYSTAL_SYSTEMS, ""])
    return names[np.where(number == 0, len(CRYSTAL_SYSTEMS), np.searchsorted(_LAST, number))]


def crystal_system_shares(number: np.ndarray) -> dict[str, Interval]:
    """The share of each crystal system among space group numbers (m,); "none" holds those without a group."""
    of = crystal_system(number)
    return {name or "none": interval(of == name) for name in (*CRYSTAL_SYSTEMS, "")}


def p1_share(number: np.ndarray) -> Interval:
    """The share of crystals without any symmetry but translations, among those of (m,) numbers that have a group.

    Those without a group (0) are not counted; `no_group_share` is theirs. MatterGen counts them as P1.
    """
    number = np.asarray(number)
    return interval(number[number > 0] == 1)


def no_group_share(number: np.ndarray) -> Interval:
    """The share of crystals in which no space group was found, among space group numbers (m,)."""
    return interval(np.asarray(number) == 0)


def summary(found: SpaceGroups) -> list[str]:
    """A line a tolerance: share of P1, of no group, and the number of different groups."""
    lines = []
    for tolerance, number in zip(found.tolerance_angstrom, found.number.T):
        p1, none = p1_share(number), no_group_share(number)
        kinds = len(set(number.tolist()) - {0})
        lines.append(
            f"symmetry tolerance {tolerance:g} Å: P1 {p1.value:.1%} [{p1.low:.1%}, {p1.high:.1%}], "
            f"no group {none.value:.1%}, {kinds} space groups among {none.count} crystals"
        )
    return lines

"""Rebuilds `geometry/wyckoff.npz`, the compact table of the 230 space groups, from a list of coordinate triplets.

Needed only when the table is made anew: `python -m crysjax.crystallography.wyckoff_tables LIST.csv`, where LIST is the
file `wyckoff_list.csv` of PyXtal (MIT license; the positions of the Bilbao Crystallographic Server). The standard
setting of the International Tables, volume A: unique axis b with cell choice 1, origin choice 2, hexagonal axes for R.
`tests/geometry/test_symmetry.py` holds the result against spglib and against pymatgen's tables.
"""

from __future__ import annotations

import ast
import csv
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from crysjax.data import files
from crysjax.geometry.symmetry import DENOMINATOR, MAX_LETTERS, MAX_OPERATIONS, TABLE

GROUPS = 231  # row 0 stands for "not given" and repeats P1


def affine(triplet: str) -> np.ndarray:
    """The map "-y, x-y, z+1/3" as whole numbers: (3, 4), the last column in units of 1/24."""
    rows = np.zeros((3, 4), int)
    for row, text in zip(rows, triplet.replace(" ", "").split(",")):
        for term in text.replace("-", "+-").split("+"):
            sign, body = (-1, term[1:]) if term.startswith("-") else (1, term)
            if body and body[-1] in "xyz":
                row["xyz".index(body[-1])] += sign * int(body[:-1].rstrip("*") or 1)
            elif body:
                row[3] += sign * Fraction(body) * DENOMINATOR
    return rows


def group_row(positions: list[list[str]]) -> dict[str, np.ndarray]:
    """The rows of the table for one group: positions from the general one down to letter a, as the list has them."""
    general = [affine(t) for t in positions[0]]
    centerings = [m[:, 3] % DENOMINATOR for m in general if (m[:, :3] == np.eye(3)).all()]
    operations = list({m[:, :3].tobytes(): m for m in reversed(general)}.values())[::-1]
    maps, orbits = np.zeros((MAX_LETTERS, 3, 4), int), np.full((MAX_LETTERS, MAX_OPERATIONS), -1)
    for k, triplets in enumerate(reversed(positions)):
        maps[k] = affine(triplets[0])
        orbit = _distinct([_compose(m, maps[k]) for m in operations], centerings)
        if len(orbit) * len(centerings) != len(triplets):
            raise ValueError(f"{triplets[0]}: {len(triplets)} sites in the list, {len(orbit)} by the operations")
        orbits[k, : len(orbit)] = orbit
    padded = np.zeros((MAX_OPERATIONS, 3, 4), int)
    padded[: len(operations)] = operations
    shifts = np.zeros((4, 3), int)
    shifts[: len(centerings)] = centerings
    sizes = np.array([len(operations), len(centerings)])
    return {"operations": padded, "maps": maps, "orbits": orbits, "centerings": shifts, "sizes": sizes}


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    return np.concatenate([outer[:, :3] @ inner[:, :3], outer[:, :3] @ inner[:, 3:] + outer[:, 3:]], -1)


def _distinct(maps: list[np.ndarray], centerings: list[np.ndarray]) -> list[int]:
    """The first of those maps that agree up to a lattice vector of the centered cell."""
    seen, kept = set(), []
    for k, m in enumerate(maps):
        names = {(m[:, :3].tobytes(), ((m[:, 3] + c) % DENOMINATOR).tobytes()) for c in centerings}
        if not names & seen:
            kept.append(k)
        seen |= names
    return kept


def build(source: Path, target: Path = TABLE) -> None:
    """Write the table of all groups from PyXtal's list."""
    with files.naming(source), source.open(newline="") as lines:
        listed = {int(row[0]): ast.literal_eval(row[1]) for row in csv.reader(lines) if row[0] and row[1]}
    rows = [group_row(listed[max(g, 1)]) for g in range(GROUPS)]
    files.write_npz(target, {name: np.stack([row[name] for row in rows]).astype(np.int8) for name in rows[0]})


if __name__ == "__main__":
    build(Path(sys.argv[1]))

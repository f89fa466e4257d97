"""Primitive, Niggli-reduced, right-handed cells: one description for every description of a crystal's lattice.

Networks that read a cell's axes, or only pairs within the cell, are no functions of the crystal unless every crystal
comes in one kind of cell. Vectors keep their directions in space: no crystal is turned or mirrored, so that forces and
stresses stand as they are, and what is a number per atom does not change with the size of the cell.

Translations are searched here and not taken from spglib, which answers with other positions, other axes, or nothing.
Two cells of one crystal can still differ where its lattice has more symmetry than its atoms have.
"""

from __future__ import annotations

import dataclasses
from math import gcd
from typing import NamedTuple

import numpy as np

from crysjax.crystallography import symmetrized, symmetry_finder
from crysjax.data.datasets import FORCES, Dataset, Entry, entries, wrap

_ROUNDS = 8  # a cell is reduced until it stays as it is: rounding to float32 and means of positions can open a new step
_TIGHTER = 10  # times that the tolerance is halved for translations that are no group
_ALIKE = 0.01  # of the largest value in the crystal: sites that differ more in a property are not equivalent in it


class StandardCell(NamedTuple):
    """One crystal in its standard cell, and what happened on the way."""

    entry: Entry
    reduced: bool  # False: not finite, flat, or no end of reducing within `_ROUNDS`; the entry is as given
    dropped: tuple[str, ...] = ()  # site properties that are NaN now: equivalent sites had different values


def standardized(dataset: Dataset, *, symprec: float = 0.01) -> Dataset:
    """Every crystal in its primitive, Niggli-reduced, right-handed cell; a second call returns what it is given.

    `symprec` in Å is how far an atom may be from where a translation of the lattice puts it; merged atoms are at their
    mean. Order, ids, splits and properties stay, and so does the order of the sites that remain. Forces of merged sites
    are their mean; any other site property that differs between merged sites becomes missing in that crystal.
    `provenance["cells"]` holds the counts of `counted`.
    """
    return counted(dataset, symprec=symprec)[0]


def counted(dataset: Dataset, *, symprec: float = 0.01) -> tuple[Dataset, dict]:
    """`standardized`, and what this call did.

    Counts of crystals whose cell was made smaller or merely changed, ids that could not be reduced (they stay as they
    are), and numbers of crystals that lost each site property.
    """
    rows = entries(dataset)
    cells = [standard_cell(row, symprec=symprec) for row in rows]
    kept = all(cell.entry is row for cell, row in zip(cells, rows))
    smaller = sum(len(cell.entry.numbers) < len(row.numbers) for cell, row in zip(cells, rows))
    lost = [name for cell in cells for name in cell.dropped]
    said = {
        "symprec_angstrom": symprec,
        "made_primitive": smaller,
        "changed": sum(cell.entry is not row for cell, row in zip(cells, rows)) - smaller,
        "not_reduced": [row.id for cell, row in zip(cells, rows) if not cell.reduced],
        "site_properties_dropped": {name: lost.count(name) for name in sorted(set(lost))},
    }
    if kept and (all(cell.reduced for cell in cells) or "cells" in dataset.provenance):
        return dataset, said
    return _replaced(dataset, [cell.entry for cell in cells], said), said


def _replaced(dataset: Dataset, rows: list[Entry], said: dict) -> Dataset:
    names = dataset.site_properties
    return dataclasses.replace(
        dataset,
        num_atoms=np.array([len(row.numbers) for row in rows], dataset.num_atoms.dtype),
        numbers=np.concatenate([row.numbers for row in rows]).astype(dataset.numbers.dtype),
        frac=np.concatenate([row.frac for row in rows]).astype(dataset.frac.dtype),
        lattice=np.stack([row.lattice for row in rows]).astype(dataset.lattice.dtype),
        site_properties={k: np.concatenate([row.site_properties[k] for row in rows]).astype(v.dtype)
                         for k, v in names.items()},
        provenance=dataset.provenance | {"cells": said},
    )  # fmt: skip


def standard_cell(entry: Entry, *, symprec: float = 0.01) -> StandardCell:
    """One crystal in its primitive, Niggli-reduced, right-handed cell; the entry itself where it is there already."""
    if not 0 < symprec < 1:
        raise ValueError(f"symprec: {symprec} Å, expected above 0 and below 1")
    finite = np.isfinite(entry.frac).all() and np.isfinite(entry.lattice).all()
    if not finite or abs(np.linalg.det(np.asarray(entry.lattice, float))) < 1e-6:
        return StandardCell(entry, False)
    row, dropped = entry, set()
    for _ in range(_ROUNDS):
        before = row
        row = _niggli(before, symprec)
        if row is None:
            return StandardCell(entry, False)
        row, lost = _primitive(row, symprec)
        dropped |= lost
        if row is before:
            return StandardCell(row, True, tuple(sorted(dropped)))
    return StandardCell(entry, False)


def reduced(entry: Entry, *, symprec: float = 0.01) -> Entry:
    """The crystal in the right-handed Niggli cell of its lattice, with all of its sites; itself if there is none."""
    return _niggli(entry, symprec) or entry


class Conventional(NamedTuple):
    """A crystal in the conventional cell of its space group, symmetrized; rows are the sites of that cell."""

    numbers: np.ndarray  # (n,)
    frac: np.ndarray  # (n, 3) from 0 to 1
    lattice: np.ndarray  # (3, 3) Å; a lies along x, b in the xy plane
    symbol: str  # Hermann-Mauguin: "Fd-3m"
    number: int  # of the space group
    wyckoff: np.ndarray  # (n,) str: letters
    orbit: np.ndarray  # (n,) int: sites of one orbit share a number
    setting: str = "P 1"  # the symbol with the choice of origin or axes: "F d -3 m :2"
    moved_angstrom: float = 0.0  # the farthest that the symmetry moved an atom


def conventional(entry: Entry, *, tolerance_angstrom: float = symmetrized.TOLERANCE_ANGSTROM) -> Conventional:
    """The cell of `symmetrized`, turned to the standard axes; where there is no symmetry, the reduced cell in P1.

    A cell to look at, not to compute with: atoms are moved to where the symmetry has them.
    """
    found, _ = symmetrized.symmetrized(entry, tolerance_angstrom=tolerance_angstrom)
    row = reduced(entry, symprec=tolerance_angstrom) if found is None else found.entry
    numbers, frac = np.asarray(row.numbers), np.asarray(row.frac, float) % 1.0
    lattice = _along_axes(np.asarray(row.lattice, float))
    if found is None:
        return Conventional(numbers, frac, lattice, "P1", 1, np.full(len(numbers), "a"), np.arange(len(numbers)))
    letters = np.array(found.letters)[found.orbit]
    return Conventional(
        numbers, frac, lattice, found.short, found.number, letters, found.orbit, found.symbol, found.moved_angstrom
    )


def _along_axes(lattice: np.ndarray) -> np.ndarray:
    """A lattice turned so that a lies along x and b in the xy plane."""
    _, triangle = np.linalg.qr(lattice.T)
    return (triangle * np.sign(np.diag(triangle))[:, None]).T


def _niggli(entry: Entry, symprec: float) -> Entry | None:
    """The crystal in the right-handed Niggli cell of its lattice: the entry itself if it is, `None` if there is none.

    Inner products are compared as coarsely as `symprec` moves them: 89.9999 and 90 degrees are one kind of cell.
    """
    lattice = np.asarray(entry.lattice, float)
    for coarse in (1.0, 0.1, 0.01):
        margin = coarse * symprec * np.cbrt(abs(np.linalg.det(lattice)))
        change = _niggli_change(lattice, margin)
        if change is not None:
            return entry if _same(change, lattice, margin) else _in_basis(entry, change, entry.frac)
    return None


def _niggli_change(lattice: np.ndarray, margin: float) -> np.ndarray | None:
    """The whole-number change of basis to the Niggli cell, right-handed; `margin` in Å² is what counts as equal."""
    found = symmetry_finder.niggli_reduced(lattice, margin=margin)
    if found is None:
        return None
    change = np.round(found @ np.linalg.inv(lattice))
    if round(abs(np.linalg.det(change))) != 1:
        return None
    return change * np.sign(np.linalg.det(change @ lattice))  # -1: all axes turned round, which mirrors nothing


def _same(change: np.ndarray, lattice: np.ndarray, margin: float) -> bool:
    """Whether the new basis is the old one, or another of equal lengths and angles, which is no better."""
    old, new = lattice @ lattice.T, change @ lattice @ lattice.T @ change.T
    return bool(np.abs(new - old).max() < margin and np.linalg.det(lattice) > 0)


def _in_basis(entry: Entry, change: np.ndarray, frac: np.ndarray) -> Entry:
    """The entry with the rows of `change @ lattice` as its cell, rounded as data sets store it."""
    back = np.asarray(frac, float) @ np.linalg.inv(change)
    return entry._replace(frac=wrap(back), lattice=(change @ np.asarray(entry.lattice, float)).astype(np.float32))


def _primitive(entry: Entry, symprec: float) -> tuple[Entry, set[str]]:
    """The crystal in a primitive cell, and the site properties that it lost; the entry itself if its cell is one."""
    for halved in range(_TIGHTER):
        shifts, image = _translations(entry, symprec / 2**halved)
        if len(shifts) == 1:
            break
        change = _spanned(shifts)
        if change is not None and (np.sort(image, 0) == np.sort(image, 0)[:, image.min(0)]).all():
            return _merged(entry, change, shifts, image)
    return entry, set()


def _translations(entry: Entry, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of the cell (k, 3) that move the crystal onto itself, 0 first, and where each site goes (k, n)."""
    numbers, frac, lattice = np.asarray(entry.numbers), np.asarray(entry.frac, float), np.asarray(entry.lattice, float)
    none = np.zeros((1, 3)), np.arange(len(numbers))[None]
    found, count = np.unique(numbers, return_counts=True)
    most = gcd(*count.tolist())  # the number of translations divides that of each element's atoms
    if most == 1:
        return none
    rare = np.flatnonzero(numbers == found[count.argmin()])
    wanted = frac[rare] - frac[rare[0]]
    shifts = np.round(wanted * most) / most
    shifts = shifts[np.linalg.norm((wanted - shifts) @ lattice, axis=1) < tolerance]
    image, distance = _nearest(numbers, frac, lattice, shifts)
    # every translation takes every site to another one, within the tolerance
    good = (distance < tolerance).all(1) & (np.sort(image, 1) == none[1]).all(1)
    return (shifts[good] % 1, image[good]) if good[:1].all() and len(shifts) else none


def _nearest(numbers, frac, lattice, shifts) -> tuple[np.ndarray, np.ndarray]:
    """The site of like element nearest to each moved site and its distance in Å: (k, n), (k, n).

    Nearest in fractions, which is nearest in Å as well where that is near: the cell is reduced.
    """
    from scipy.spatial import cKDTree

    box = (1, 1, 1, 0)  # fractions repeat, the element, put on an axis of its own, does not
    sites = np.column_stack([wrap(frac).astype(float), 2.0 * numbers])
    moved = (frac[None] + shifts[:, None]).reshape(-1, 3)
    moved = np.where((moved % 1) >= 1, 0, moved % 1)
    _, image = cKDTree(sites, boxsize=box).query(np.column_stack([moved, np.tile(2.0 * numbers, len(shifts))]))
    off = moved - frac[image]
    distance = np.linalg.norm((off - np.round(off)) @ lattice, axis=1)
    alike = numbers[image] == np.tile(numbers, len(shifts))
    shape = len(shifts), len(numbers)
    return image.reshape(shape), np.where(alike, distance, np.inf).reshape(shape)


def _spanned(shifts: np.ndarray) -> np.ndarray | None:
    """A basis, as rows in the cell's own, of the lattice that cell and translations span; `None` if these are no group.

    Rows are brought into echelon form by Euclid's algorithm on whole numbers.
    """
    order = len(shifts)
    rows = np.vstack([np.round(shifts * order).astype(int), order * np.eye(3, dtype=int)])
    if np.abs(rows[:order] / order - shifts).max() > 1e-9:
        return None
    basis = []
    for column in range(3):
        while (nonzero := np.flatnonzero(rows[:, column])).size > 1:
            pivot = nonzero[np.abs(rows[nonzero, column]).argmin()]
            times = rows[:, column] // rows[pivot, column]
            times[pivot] = 0
            rows = rows - times[:, None] * rows[pivot]
        pivot = np.flatnonzero(rows[:, column])[0]
        basis.append(rows[pivot])
        rows = np.delete(rows, pivot, 0)
    change = np.array(basis) / order
    return change if round(1 / abs(np.linalg.det(change))) == order else None


def _merged(entry: Entry, change: np.ndarray, shifts: np.ndarray, image: np.ndarray) -> tuple[Entry, set[str]]:
    """The crystal in the smaller cell: a site for each orbit of the translations, at the mean of its members."""
    first = np.flatnonzero(image.min(0) == np.arange(image.shape[1]))
    frac = np.asarray(entry.frac, float)
    off = frac[image[:, first]] - shifts[:, None] - frac[first]
    mean = frac[first] + (off - np.round(off)).mean(0)
    of_orbits = {k: np.asarray(v, float)[image[:, first]] for k, v in entry.site_properties.items()}
    lost = {name for name, values in of_orbits.items() if name != FORCES and _unlike(values)}
    kept = {k: v.mean(0) * (np.nan if k in lost else 1) for k, v in of_orbits.items()}
    numbers = np.asarray(entry.numbers)[first]
    return _in_basis(entry._replace(numbers=numbers, site_properties=kept), change, mean), lost


def _unlike(values: np.ndarray) -> bool:
    """Whether merged sites (axis 0) have different values; missing ones say nothing."""
    known = np.nan_to_num(np.ptp(values, axis=0)), np.nan_to_num(np.abs(values))
    return bool(known[0].max(initial=0) > _ALIKE * known[1].max(initial=0))

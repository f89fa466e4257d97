"""Paths through the Brillouin zone along which band structures are drawn: Setyawan and Curtarolo's, by pymatgen."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from crysjax.crystallography import symmetry_finder
from crysjax.crystallography.equivalence import Tolerance, matcher
from crysjax.data.datasets import Entry
from crysjax.data.readers import limits
from crysjax.data.readers.convert import to_structure

CLOSE = Tolerance(stol=0.1, angle_degree=1.0, ltol=0.05)
"""How far the standard setting may be from the cell that is given; it is the same crystal, idealized."""


class BandPath(NamedTuple):
    """Wave vectors in order along a path of straight parts; where parts do not join, a distance is there twice."""

    q: np.ndarray  # (k, 3) fractions of the reciprocal lattice of the given cell
    distance: np.ndarray  # (k,) along the path in Å⁻¹ (without 2π)
    part: np.ndarray  # (k,) int: which straight part a point belongs to
    ticks: tuple[tuple[float, str], ...]  # distance and name of each special point; "U|K" where parts do not join


def band_path(entry: Entry, *, spacing_per_angstrom: float = 0.01, tolerance_angstrom: float = 0.01) -> BandPath:
    """The standard path of a crystal, whose cell may be any primitive one in any orientation.

    Setyawan, Curtarolo, Comput. Mater. Sci. 49, 299 (2010), which names points in a standard primitive cell; they are
    carried over by the whole-number map between both cells that also maps the atoms.

    Raises:
        ValueError: if spglib finds no symmetry, or the cell is not primitive.
    """
    if not spacing_per_angstrom > 0:
        raise ValueError(f"spacing_per_angstrom: {spacing_per_angstrom} is not a positive step along the path")
    points, branches, change = _standard(entry, tolerance_angstrom)
    reciprocal = np.linalg.inv(np.asarray(entry.lattice, float)).T  # rows: reciprocal vectors
    q, distance, part, ticks, at = [], [], [], [], 0.0
    for branch in branches:
        corners = [change @ points[name] for name in branch]
        ticks = _joined(ticks, at, _plain(branch[0]))
        for name, start, stop in zip(branch[1:], corners, corners[1:]):
            length = np.linalg.norm((stop - start) @ reciprocal)
            share = np.linspace(0, 1, max(int(np.ceil(length / spacing_per_angstrom)), 1) + 1)
            q.append(start + share[:, None] * (stop - start))
            distance.append(at + share * length)
            part.append(np.full(len(share), len(part)))
            at += length
            ticks.append((at, _plain(name)))
    return BandPath(np.concatenate(q), np.concatenate(distance), np.concatenate(part), tuple(ticks))


def _standard(entry: Entry, tolerance: float) -> tuple[dict[str, np.ndarray], list[list[str]], np.ndarray]:
    """Special points, branches of the path, and the matrix that takes the points to the given cell."""
    from pymatgen.symmetry.bandstructure import HighSymmKpath

    tolerance = limits.tolerance("band_path: tolerance_angstrom", tolerance)
    symmetry_finder.checked_cell((entry.lattice, entry.frac, entry.numbers))
    structure = to_structure(entry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the given cell is not the standard one
        try:
            found = HighSymmKpath(structure, symprec=tolerance)
        except Exception as error:  # whatever spglib or pymatgen stumble over
            raise ValueError(f"band_path: no standard path for {entry.id or 'the crystal'} ({error})") from None
        standard = found.prim
        if len(standard) != len(structure):
            raise ValueError(
                f"band_path: {entry.id or 'the crystal'} has {len(structure)} atoms, its primitive cell {len(standard)}"
            )
        change = matcher(CLOSE, in_given_cells=True).get_transformation(structure, standard)
    if change is None:
        raise ValueError(f"band_path: the standard setting of {entry.id or 'the crystal'} does not match its cell")
    points = {name: np.asarray(q, float) for name, q in found.kpath["kpoints"].items()}
    return points, found.kpath["path"], np.round(np.asarray(change[0], float))


def _joined(ticks: list[tuple[float, str]], at: float, name: str) -> list[tuple[float, str]]:
    """The ticks with the first point of a new branch, at the place where the last one ended."""
    if not ticks:
        return [(at, name)]
    last = ticks[-1][1]
    return [*ticks[:-1], (at, last if last == name else f"{last}|{name}")]


def _plain(name: str) -> str:
    """pymatgen writes LaTeX."""
    return name.replace("\\Gamma", "Γ").replace("\\Sigma", "Σ").replace("_1", "₁").replace("_2", "₂")

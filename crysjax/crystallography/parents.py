"""Matches of two crystals on a common parent: after symmetrization, as a displaced supercell, or without species."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.crystallography import symmetry_finder
from crysjax.crystallography.equivalence import Tolerance, matcher, reduced, rms
from crysjax.data.datasets import Entry

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

PARENT = Tolerance(stol=0.3, angle_degree=5.0, ltol=0.2)  # pymatgen's defaults
SYMPREC_ANGSTROM = (0.1, 0.2, 0.3, 0.5)
PLACEHOLDER = 100  # Fm, which no crystal has: stands for species that count as one
SIMILAR_ELECTRONEGATIVITY = 0.7  # Pauling; species that may share a site (Hume-Rothery's 0.4 would part Cu and Au)
TIGHT_ANGSTROM = 0.01  # spglib's tolerance for the symmetry of a crystal as it is
_MOST_SITES, _MOST_CELLS = 80, 8  # of a supercell that is looked for
_TRANSLATION = 0.1  # of a cell edge, between the translations of one operation before and after a displacement


class ParentMatch(NamedTuple):
    """Two crystals that are one once symmetrized."""

    value: float  # RMS in free lengths
    symprec_angstrom: float  # 0: as they are
    group: int  # space group of the parent, 0 if as they are


class SupercellMatch(NamedTuple):
    """Two crystals of which one is a displaced supercell of the other."""

    value: float
    reason: str


def merge(numbers: np.ndarray, species: tuple[int, ...]) -> np.ndarray:
    """Atomic numbers with the given species as the placeholder."""
    return np.where(np.isin(numbers, species), PLACEHOLDER, numbers)


@lru_cache(maxsize=1)
def electronegativity() -> np.ndarray:
    """Pauling's, of H..Fm, NaN where there is none: (100,)."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([Element.from_Z(z).X for z in range(1, 101)], float)


def similar(pair: tuple[int, int]) -> bool:
    """Whether two species may share a site: electronegativities within 0.7."""
    a, b = electronegativity()[[pair[0] - 1, pair[1] - 1]]
    return bool(abs(a - b) <= SIMILAR_ELECTRONEGATIVITY)


def parent(row: Entry, symprec_angstrom: float) -> tuple[int, Entry] | None:
    """Space group and idealized conventional cell at a tolerance; None if spglib finds none. 0 is the row as it is."""
    if symprec_angstrom == 0:
        return 0, row
    found = symmetry_finder.ask("get_symmetry_dataset", _cell_of(reduced(row)), symprec_angstrom)[0]
    ideal = found and Entry(row.id, np.asarray(found.std_types), found.std_positions, found.std_lattice, {})
    return (found.number, ideal) if found else None


def parent_match(
    known: Entry, row: Entry, tolerance: Tolerance, symprec_angstrom: tuple[float, ...]
) -> ParentMatch | None:
    """The match of two symmetrized crystals at the smallest tolerance at which there is one."""
    if formula(known.numbers) != formula(row.numbers):
        return None
    for symprec in symprec_angstrom:
        one, two = parent(known, symprec), parent(row, symprec)
        if one and two and one[0] == two[0]:
            value = rms(reduced(one[1]), reduced(two[1]), tolerance)
            if np.isfinite(value):
                return ParentMatch(value, symprec, one[0])
    return None


def supercell_match(known: Entry, row: Entry, tolerance: Tolerance) -> SupercellMatch | None:
    """Whether one crystal is a displaced supercell of the other, and its symmetry a part of the other's.

    Sites move by at most `stol` of the free length; the operations of the lower group, in the basis of the supercell,
    must all be operations of the higher one.
    """
    one, two = reduced(known), reduced(row)
    large, small = (two, one) if len(two) > len(one) else (one, two)
    cells = len(large) // len(small)
    if len(large) % len(small) or not 1 < cells <= _MOST_CELLS or len(large) > _MOST_SITES:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ideal = _supercells(tolerance).get_s2_like_s1(large, small)
    if ideal is None or not contained(large, ideal):
        return None
    value = _supercells(tolerance).get_rms_dist(large, small)
    whole = "the known crystal" if large is two else "it"
    part = "it" if large is two else "the known crystal"
    reason = f"{part} is {whole} in {cells} cells with displaced sites, its symmetry a part of the other's"
    return SupercellMatch(float(value[0]) if value else float("nan"), reason)


def contained(low: Structure, high: Structure) -> bool:
    """Whether every symmetry operation of `low` is one of `high`, which has the same basis and order of sites."""
    few, many = (symmetry_finder.ask("get_symmetry", _cell_of(s), TIGHT_ANGSTROM)[0] for s in (low, high))
    if few is None or many is None:
        return False
    for rotation, translation in zip(few["rotations"], few["translations"]):
        same = (many["rotations"] == rotation).all((1, 2))
        off = many["translations"][same] - translation
        if not (np.abs(off - np.round(off)).max(-1, initial=0) < _TRANSLATION).any():
            return False
    return True


def anonymous_match(known: Entry, row: Entry, tolerance: Tolerance) -> tuple[float, dict[int, int]] | None:
    """RMS and the exchange (known -> row) under which StructureMatcher matches two crystals of other elements."""
    one, two = reduced(known), reduced(row)
    if len(one) != len(two) or not matcher(tolerance).fit_anonymous(one, two, skip_structure_reduction=True):
        return None
    value, mapping = matcher(tolerance).get_rms_anonymous(one, two)
    return (float(value), {a.Z: b.Z for a, b in mapping.items()}) if mapping else None


def sites_as_given(row: Entry) -> tuple[int, int]:
    """Sites of the primitive cell (StructureMatcher's) and of the conventional cell of its group."""
    cell = reduced(row)
    found = symmetry_finder.ask("get_symmetry_dataset", _cell_of(cell), SYMPREC_ANGSTROM[0])[0]
    return len(cell), len(found.std_types) if found else len(cell)


@lru_cache(maxsize=4)
def _supercells(tolerance: Tolerance) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(stol=tolerance.stol, angle_tol=tolerance.angle_degree, ltol=tolerance.ltol,
                            primitive_cell=False, attempt_supercell=True)  # fmt: skip


def _cell_of(structure: Structure) -> tuple:
    return structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers)

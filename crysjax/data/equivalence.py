"""One crystal or two? pymatgen's StructureMatcher on structures that are reduced once instead of once a pair."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crysjax.data.datasets import Entry
from crysjax.data.io import to_structure

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure


class Tolerance(NamedTuple):
    """StructureMatcher's tolerances: site (of the free length per atom), angle and relative length.

    The defaults are CDVAE's (Xie et al. 2022), which every crystal structure prediction paper since uses.
    """

    stol: float = 0.5
    angle_degree: float = 10.0
    ltol: float = 0.3


CDVAE = Tolerance()


@lru_cache(maxsize=4)
def matcher(tolerance: Tolerance) -> StructureMatcher:
    """pymatgen's matcher with these tolerances and its other defaults."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(stol=tolerance.stol, angle_tol=tolerance.angle_degree, ltol=tolerance.ltol)


def reduced(row: Entry) -> Structure:
    """The primitive, Niggli-reduced structure: what StructureMatcher makes of each argument at every call."""
    numbers, frac, lattice = (np.asarray(a, float) for a in row[1:4])
    return _reduced(numbers.tobytes(), frac.tobytes(), lattice.tobytes())


@lru_cache(maxsize=4096)
def _reduced(numbers: bytes, frac: bytes, lattice: bytes) -> Structure:
    shaped = (np.frombuffer(frac).reshape(-1, 3), np.frombuffer(lattice).reshape(3, 3))
    row = Entry("", np.frombuffer(numbers).astype(int), *shaped, {})
    return matcher(CDVAE)._get_reduced_structure(to_structure(row))


def rms(first: Structure, second: Structure, tolerance: Tolerance) -> float:
    """`get_rms_dist` of two reduced structures: the normalised RMS, NaN if they do not match."""
    if first.composition != second.composition:
        return float("nan")
    engine = matcher(tolerance)
    match = engine._match(*engine._preprocess(first, second, skip_structure_reduction=True), use_rms=True)
    return float("nan") if match is None else float(match[0])


def fits(first: Structure, second: Structure, tolerance: Tolerance) -> bool:
    """`fit` of two reduced structures."""
    same = first.composition == second.composition
    return same and matcher(tolerance).fit(first, second, skip_structure_reduction=True)

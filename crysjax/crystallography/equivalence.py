"""One crystal or two? pymatgen's StructureMatcher, pair by pair the same answers in a fraction of its time.

Two savings change no answer. A structure is reduced (Niggli, primitive) once in the life of a process instead of once a
pair, which is nine tenths of a plain loop. And a pair whose reduced lattices cannot be mapped onto one another
(`lattice_match`), which is most pairs, never reaches the matcher.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crysjax.crystallography.lattice_match import mappable
from crysjax.data.datasets import Entry
from crysjax.data.readers.convert import to_structure

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
_REMEMBERED: dict[bytes, Entry] = {}  # a crystal's bytes -> its primitive cell; answers do not depend on it
_MOST_REMEMBERED = 1 << 16


@lru_cache(maxsize=8)
def matcher(tolerance: Tolerance, *, in_given_cells: bool = False) -> StructureMatcher:
    """pymatgen's matcher with these tolerances and its other defaults, or one that leaves cells as they are."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    stol, angle, ltol = tolerance
    return StructureMatcher(stol=stol, angle_tol=angle, ltol=ltol, primitive_cell=not in_given_cells)


def primitive(rows: Sequence[Entry], run: Callable = lambda function, rows: list(map(function, rows))) -> list[Entry]:
    """The primitive, Niggli-reduced cell of each row, in double precision: what StructureMatcher compares.

    Rows that this process has reduced before are remembered (the last 65,536). `run(function, rows)` maps the others
    and may use other processes. Ids and properties stay behind.
    """
    keys = [_key(row) for row in rows]
    missing = {key: row for key, row in zip(keys, rows) if key not in _REMEMBERED}
    new = dict(zip(missing, run(reduce_cell, list(missing.values()))))
    answers = [new[key] if key in new else _REMEMBERED[key] for key in keys]
    _REMEMBERED.update(new)
    for key in list(itertools.islice(_REMEMBERED, max(len(_REMEMBERED) - _MOST_REMEMBERED, 0))):
        del _REMEMBERED[key]
    return answers


def reduce_cell(row: Entry) -> Entry:
    """The same crystal in its primitive, Niggli-reduced cell, by pymatgen."""
    # these two public methods are what StructureMatcher calls; its own cache, slow for equal formulas, is left out
    cell = to_structure(row).get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
    return Entry("", np.array(cell.atomic_numbers), cell.frac_coords, cell.lattice.matrix, {})


def matches(first: Entry, others: Sequence[Entry], tolerance: Tolerance) -> Iterator[int]:
    """The indices of the `primitive` rows that `StructureMatcher.fit(first, other)` accepts, in order, found lazily."""
    lattices = np.array([row.lattice for row in others]).reshape(-1, 3, 3)
    possible = mappable(first.lattice, lattices, ltol=tolerance.ltol, angle_degree=tolerance.angle_degree)
    structure = to_structure(first)
    for i in np.flatnonzero(possible).tolist():
        if fits(structure, to_structure(others[i]), tolerance):
            yield i


def reduced(row: Entry) -> Structure:
    """The primitive, Niggli-reduced structure: what StructureMatcher makes of each argument at every call."""
    return to_structure(primitive([row])[0])


def rms(first: Structure, second: Structure, tolerance: Tolerance) -> float:
    """`get_rms_dist` of two reduced structures: the normalized RMS, NaN if they do not match."""
    if first.composition != second.composition:
        return float("nan")
    engine = matcher(tolerance)
    match = engine._match(*engine._preprocess(first, second, skip_structure_reduction=True), use_rms=True)
    return float("nan") if match is None else float(match[0])


def onto(first: Entry, second: Entry, tolerance: Tolerance = CDVAE) -> tuple[float, Entry] | None:
    """The second crystal in the first one's basis, origin and order of sites, and the normalized RMS between them.

    `None` where they do not match. Both are taken in the cells that are given, so these must hold as many sites.
    """
    engine = matcher(tolerance, in_given_cells=True)
    *cells, ratio, _ = engine._preprocess(to_structure(first), to_structure(second), niggli=False)
    match = engine._strict_match(*cells, ratio, s1_supercell=False, use_rms=True)
    if match is None:
        return None
    value, _, basis, shift, place = match  # site i of the second lies on site place[i] of the first
    basis = np.asarray(basis, float)
    frac = (np.asarray(second.frac, float) @ np.linalg.inv(basis) + shift)[np.argsort(place)]
    frac -= np.round(frac - np.asarray(first.frac, float))
    return float(value), second._replace(numbers=first.numbers, frac=frac, lattice=basis @ second.lattice)


def fits(first: Structure, second: Structure, tolerance: Tolerance) -> bool:
    """`fit` of two reduced structures."""
    same = first.composition == second.composition
    return same and matcher(tolerance).fit(first, second, skip_structure_reduction=True)


def _key(row: Entry) -> bytes:
    """What a crystal's reduction depends on: its sites and its cell."""
    return b"".join(np.asarray(a, float).tobytes() for a in row[1:4])

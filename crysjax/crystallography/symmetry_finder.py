"""The one way to ask spglib: its compiled code gets numbers that were checked, and nothing that it raises gets out.

With NaN in a position, a tolerance below 0 or a cell without volume it crashes the interpreter or does not return.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from crysjax.data.readers import limits
from crysjax.geometry import soundness

Cell = tuple[np.ndarray, np.ndarray, np.ndarray]  # lattice (3, 3) in Å, fractions (n, 3), atomic numbers (n,)


def ask(function: str, cell: Cell, tolerance_angstrom: float, **settings: Any) -> tuple[Any, str]:
    """The answer of a function of spglib about a cell and ""; or None, and why there is none.

    Raises:
        ValueError: a tolerance that is none (`limits.tolerance`); a cell that is no crystal is a reason instead.
    """
    tolerance = limits.tolerance("symmetry tolerance", tolerance_angstrom)
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its C library prints what the answer says anyway
    import spglib

    try:
        cell = checked_cell(cell)
    except ValueError as error:
        return None, str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib is changing how it reports errors: both ways are read
        try:
            found = getattr(spglib, function)(cell, symprec=tolerance, **settings)
            return found, "" if found is not None else f"spglib: {spglib.get_error_message()}"
        except Exception as error:  # spglib's errors have no common class across its versions
            return None, f"spglib: {' '.join(str(error).split())[:200]}"


def checked_cell(cell: Cell) -> Cell:
    """The cell as spglib takes it; one that is no crystal is a ValueError that says why."""
    lattice, frac, numbers = np.asarray(cell[0], float), np.asarray(cell[1], float), np.asarray(cell[2])
    limits.refuse_sites(len(numbers))
    if lattice.shape != (3, 3) or frac.shape != (len(numbers), 3) or not len(numbers):
        raise ValueError(f"{len(numbers)} sites with positions {frac.shape} and cell {lattice.shape}")
    if (wrong := soundness.why_not(frac, lattice)) == soundness.NOT_FINITE:
        raise ValueError(wrong)
    if np.abs(frac).max() > limits.FRACTION or np.abs(lattice).max() > limits.CELL_ANGSTROM:
        raise ValueError("positions or cell are out of all proportion")
    if wrong:
        raise ValueError(wrong)
    if not (numbers.min() >= 0 and numbers.max() < 2**15):
        raise ValueError("atomic numbers that are none")
    return lattice, frac, numbers.astype(np.intc)


def niggli_reduced(lattice: np.ndarray, *, margin: float = 1e-5) -> np.ndarray | None:
    """The Niggli-reduced cell (3, 3) of a checked one, None where spglib finds none; `margin` in Å² counts as equal."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spglib.niggli_reduce(np.asarray(lattice, float), eps=margin)

"""What files say of single atoms and a crystal does not keep: isotopes, fixed atoms, velocities, magnetic moments.

Readers count it in `Entry.lost`, (what, what became of it) -> atoms; `labels.settle` adds it up and `io.read` warns.
The command line needs `NotKept` before it knows the command, so NumPy is imported where it is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

Lost = dict[tuple[str, str], int]

MOST_NAMES = 20  # of site properties of one crystal

_ISOTOPE = re.compile(r"D|T|\d+([A-Z][a-z]?)")


class NotKept(UserWarning):
    """Something that a file says of its atoms and that no crystal of a data set has."""


def counted(what: str, marked: Iterable[bool]) -> Lost:
    """The number of atoms that are marked, under a name; nothing where none is."""
    count = sum(map(bool, marked))
    return {(what, "not kept"): count} if count else {}


def isotopes(symbols: Iterable[str]) -> Lost:
    """Atoms by the symbol of their isotope: D, T, or with the mass number in front, as in 13C."""
    found = ((symbol, _ISOTOPE.fullmatch(symbol)) for symbol in symbols)
    count = Counter((f"isotope {symbol}", f"read as {match[1] or 'H'}") for symbol, match in found if match)
    return dict(count)


def of_atoms(atoms: Atoms) -> Lost:
    """Of ASE atoms: constraints, and the arrays that ASE itself gives a meaning."""
    import numpy as np

    arrays = {"velocities": "momenta", "magnetic moments": "initial_magmoms", "charges": "initial_charges"}
    fixed = {int(i) for constraint in atoms.constraints for i in np.ravel(getattr(constraint, "index", []))}
    lost = counted("constraints", [True] * len(fixed))
    for what, name in arrays.items():
        lost |= counted(what, map(_says, atoms.arrays.get(name, ())))
    return lost | counted("masses", [True] * len(atoms) if "masses" in atoms.arrays else ())


def of_site_properties(columns: dict[str, Iterable[Any]]) -> Lost:
    """Of pymatgen's site properties, name -> a value a site: those that say something."""
    lost: Lost = {}
    for name, values in list(columns.items())[:MOST_NAMES]:
        if name == "selective_dynamics":
            lost |= counted("selective dynamics", (_fixed(flags) for flags in values))
        else:
            lost |= counted(name[:60], map(_says, values))
    return lost


def _fixed(flags: Any) -> bool:
    return _is_row(flags) and not all(flags)


def _says(value: Any) -> bool:
    """Whether a value is more than nothing: a number that is not zero, a list with one in it, a text."""
    if _is_row(value):
        return any(map(_says, value))
    return value is not None and bool(value)


def _is_row(value: Any) -> bool:
    import numpy as np

    return isinstance(value, list | tuple | np.ndarray)

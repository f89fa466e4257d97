"""What files say of single atoms and a crystal does not keep: isotopes, fixed atoms, velocities, magnetic moments.

Readers count it in `Entry.lost`, (what, what became of it) -> atoms; `labels.settle` adds it up, and `io.read` (files)
and `source.read` (objects of ASE and pymatgen) warn. The command line needs `NotKept` before it knows the command, so
NumPy is imported where it is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

Lost = dict[tuple[str, str], int]

SAME_MASS_AMU = 0.01  # tables of standard masses differ by less
MOST_NAMES = 20  # of site properties of one crystal

_ISOTOPE = re.compile(r"D|T|\d+([A-Z][a-z]?)")


OF_ATOMS = {
    "velocities": ("momenta",),
    "magnetic moments": ("initial_magmoms", "magmoms"),
    "charges": ("initial_charges", "charges"),
    "tags": ("tags",),
}
"""What -> the arrays of ASE that say it, one value per atom: as set by a user, and as calculated."""

RESULTS = ("magmoms", "charges")  # of a calculator, one value per atom
_INDICES = ("indices", "index", "a", "pairs", "triples")  # where a constraint names its atoms
_PAIR = ("a1", "a2")  # of a spring
_PARTS = ("bonds", "angles", "angles_deg", "dihedrals", "dihedrals_deg")  # lists of (value, atoms)


class Notice(UserWarning):
    """Something that a reader says of a file in one line."""


class NotKept(Notice):
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
    """Of ASE atoms: constraints, the arrays that ASE itself gives a meaning, and what its calculator says of atoms."""
    results = atoms.calc.results if atoms.calc is not None else {}
    calculated = {name: results[name] for name in RESULTS if results.get(name) is not None}
    return constraints(map(_bound, atoms.constraints), len(atoms)) | of_arrays(atoms.arrays | calculated, len(atoms))


def of_arrays(arrays: Mapping[str, Any], count: int) -> Lost:
    """Of arrays under the names of ASE, each with a value (or a vector) for every one of `count` atoms."""
    lost: Lost = {}
    for what, names in OF_ATOMS.items():
        found = [list(arrays[name]) for name in names if arrays.get(name) is not None]
        lost |= counted(what, (any(map(_says, values)) for values in zip(*found)))
    return lost | counted("masses", _unusual(arrays["masses"], arrays["numbers"]) if "masses" in arrays else ())


def _unusual(masses: Any, numbers: Any) -> list[bool]:
    """Which masses (n or (n, 1), in amu) are not those that ASE gives to the elements; NaN says nothing."""
    import numpy as np
    from ase.data import atomic_masses

    usual = np.array([atomic_masses[z] if 0 <= z < len(atomic_masses) else np.nan for z in map(int, numbers)])
    masses = np.asarray(masses, float).reshape(len(usual), -1)[:, 0]
    return (~np.isnan(masses) & ~(np.abs(masses - usual) < SAME_MASS_AMU)).tolist()


def constraints(groups: Iterable[Iterable[int] | None], count: int) -> Lost:
    """Atoms that constraints bind; `None` for one that names no atoms, such as `FixCom`, which binds all of them."""
    bound: set[int] = set()
    for group in groups:
        bound |= set(range(count)) if group is None else {i % max(count, 1) for i in group}
    return counted("constraints", [True] * len(bound))


def _bound(constraint: Any) -> set[int] | None:
    """The atoms that a constraint of ASE binds, `None` where it names none."""
    import numpy as np

    if hasattr(constraint, "mask") and not np.any(constraint.mask):
        return set()  # of the directions: not one is fixed
    try:
        return set(_integers(np.asarray(constraint.get_indices()).tolist()))
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        named = [np.asarray(getattr(constraint, name)) for name in _INDICES if hasattr(constraint, name)]
        found = {i for values in named for i in _integers(values.tolist())}
        return found if found or (named and not any(values.size for values in named)) else None  # a slice: all


def bound_by(rule: Any) -> set[int] | None:
    """The atoms that a constraint binds in the form that ASE's databases keep: a name and keyword arguments.

    `None` where it names none, or in no form that is known.
    """
    given = rule.get("kwargs") if isinstance(rule, dict) else None
    given = given if isinstance(given, dict) else {}
    if isinstance(given.get("mask"), list) and not _says(given["mask"]):
        return set()  # of the directions: not one is fixed
    named = {name: given[name] for name in (*_INDICES, *_PARTS, *_PAIR) if given.get(name) is not None}
    lists = [named[name] for name in _PARTS if isinstance(named.get(name), list)]
    parts = [part[1] for values in lists for part in values if isinstance(part, list) and len(part) > 1]
    pair = [i for name in _PAIR if isinstance(i := named.get(name), int)]
    found = set(_integers([[named.get(name) for name in _INDICES], parts, pair]))
    return found if found or (named and not any(named.values())) else None


def _integers(values: Any) -> Iterator[int]:
    """The integers in nested lists."""
    if isinstance(values, list):
        for value in values:
            yield from _integers(value)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield values


def of_species(oxidation_states: Iterable[Any], spins: Iterable[Any] = (), charge: Any = None, count: int = 0) -> Lost:
    """Of pymatgen's species, one value per site, and the charge of the whole cell of `count` atoms."""
    lost = counted("oxidation states", map(_says, oxidation_states)) | counted("spins", map(_says, spins))
    charged = isinstance(charge, int | float) and abs(charge) > 1e-3  # sums of states are zero up to rounding
    return lost | counted("total charge", [True] * count if charged else ())


def of_site_properties(columns: dict[str, Iterable[Any]]) -> Lost:
    """Of pymatgen's site properties, name -> one value per site: those that say something."""
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
    return value is not None and bool(value == value) and bool(value)  # NaN says nothing


def _is_row(value: Any) -> bool:
    import numpy as np

    return isinstance(value, list | tuple | np.ndarray)

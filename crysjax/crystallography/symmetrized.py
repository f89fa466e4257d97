"""One crystal as its symmetry describes it: the standard conventional cell, one site of each orbit, the operations.

spglib finds the group within a tolerance and moves atoms and cell onto it exactly. How far that moved them is kept, and
an answer is believed only if the operations make every atom of the standard cell out of one of each orbit.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, counts
from crysjax.crystallography import symmetry_finder
from crysjax.data.datasets import Entry
from crysjax.data.readers import cif, hall_settings

TOLERANCE_ANGSTROM = 0.1
"""For relaxed structures, as the Materials Project searches for symmetry."""

_SAME = 1e-3  # Å between an image of a site and the site it is: both come from one idealized cell
_AXES = "xyz"


class Symmetrized(NamedTuple):
    """A crystal in the standard setting of its space group (the International Tables', origin choice 2)."""

    entry: Entry  # all sites of the conventional cell, idealized; no properties of sites
    number: int  # of the space group
    short: str  # Hermann-Mauguin symbol: "Fd-3m"
    symbol: str  # the same with blanks and the choice of origin or axes: "F d -3 m :2"
    hall: str
    rotation: np.ndarray  # (k, 3, 3) int: a column of fractions x goes to W x + w
    translation: np.ndarray  # (k, 3)
    sites: np.ndarray  # (o,) row of `entry` that stands for each orbit
    letters: tuple[str, ...]  # (o,) Wyckoff letters
    multiplicity: np.ndarray  # (o,)
    orbit: np.ndarray  # (n,) int: the orbit of each row of `entry`
    tolerance_angstrom: float
    moved_angstrom: float  # the farthest that an atom was moved


def symmetrized(entry: Entry, *, tolerance_angstrom: float = TOLERANCE_ANGSTROM) -> tuple[Symmetrized | None, str]:
    """The crystal by its symmetry and ""; or None, and why there is none.

    Where an answer is not the crystal, which happens near the tolerance, the search is tighter by halves, three times.
    """
    for halved in range(4):
        found, why = _at(entry, tolerance_angstrom / 2**halved)
        if found is not None:
            return found, ""
    return None, why


def _at(entry: Entry, tolerance_angstrom: float) -> tuple[Symmetrized | None, str]:
    frac, lattice = cif.right_handed(entry.frac, entry.lattice)
    cell = np.asarray(lattice, float), np.asarray(frac, float), np.asarray(entry.numbers)
    found, why = symmetry_finder.ask("get_symmetry_dataset", cell, tolerance_angstrom)
    if found is None:
        return None, why
    hall = hall_settings.standard()[found.number]
    found, why = symmetry_finder.ask("get_symmetry_dataset", cell, tolerance_angstrom, hall_number=hall)
    if found is None:
        return None, why
    kind, found_operations = hall_settings.table()[hall], hall_settings.operations(hall)
    operations = (found_operations["rotations"], found_operations["translations"])
    numbers, frac = np.asarray(found.std_types), np.asarray(found.std_positions) % 1.0
    moved = _moved(found, cell)
    orbits = _orbits(numbers, frac, found.std_lattice, operations)
    if orbits is None or moved > max(10 * tolerance_angstrom, _SAME):
        return None, f"spglib's standard cell is not the crystal (an atom moved by {moved:.3g} Å)"
    sites = np.array([members[0] for members in orbits])
    letter = dict(zip(found.mapping_to_primitive.tolist(), found.wyckoffs))
    letters = tuple(letter[k] for k in found.std_mapping_to_primitive[sites].tolist())
    row = entry._replace(numbers=numbers, frac=frac, lattice=found.std_lattice, site_properties={})
    return Symmetrized(
        row, int(found.number), found.international, hall_settings.symbol(hall), kind.hall_symbol, *operations,
        sites, letters, np.array([len(m) for m in orbits]), _numbered(orbits, len(frac)), tolerance_angstrom, moved,
    ), ""  # fmt: skip


def _numbered(orbits: list[np.ndarray], sites: int) -> np.ndarray:
    orbit = np.zeros(sites, int)
    for k, members in enumerate(orbits):
        orbit[members] = k
    return orbit


def _moved(found: Any, cell: symmetry_finder.Cell) -> float:
    """The farthest that an atom of the given cell is from the nearest of its element in the standard one, Å."""
    _, frac, numbers = cell
    placed = frac @ found.transformation_matrix.T + found.origin_shift
    off = placed[:, None] - found.std_positions[None]
    distance = np.linalg.norm((off - np.round(off)) @ found.std_lattice, axis=-1)
    return float(np.where(numbers[:, None] == found.std_types[None], distance, np.inf).min(1).max())


def _orbits(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray, operations: tuple) -> list[np.ndarray] | None:
    """Rows of each orbit; `None` if an operation takes a site to where none of its element is."""
    rotation, translation = operations
    left, orbits = np.ones(len(numbers), bool), []
    while left.any():
        first = int(left.argmax())
        images = rotation @ frac[first] + translation
        off = images[:, None] - frac[None]
        distance = np.linalg.norm((off - np.round(off)) @ lattice, axis=-1)
        distance[:, numbers != numbers[first]] = np.inf
        if distance.min(1).max() > _SAME:
            return None
        members = np.unique(distance.argmin(1))
        left[members] = False
        orbits.append(members)
    return orbits


def xyz(rotation: np.ndarray, translation: np.ndarray) -> str:
    """An operation as CIF writes it: `-y, x-y, z+1/3`."""
    return ", ".join(map(_row, np.asarray(rotation).round().astype(int).tolist(), np.asarray(translation, float)))


def _row(coefficients: list[int], shift: float) -> str:
    signs = {1: "+", -1: "-"}
    text = "".join(f"{signs[c]}{axis}" for c, axis in zip(coefficients, _AXES) if c).removeprefix("+")
    part = Fraction(float(shift) % 1.0).limit_denominator(24) % 1
    return f"{text}+{part}" if part else text


def cif_of(entry: Entry, found: Symmetrized | None, *, formula: str, items: dict[str, Any], why: str = "") -> str:
    """One CIF block: the symmetrized crystal, or all sites in P1 and why where there is none (`found` None, `why`).

    Args:
        formula: as it is to be shown.
        items: further data items, name without the leading `_crysjax_` -> number or text; NaN is written as `?`.
    """
    if found is None:
        head, _, rest = cif.format_p1(entry.id, entry.numbers, entry.frac, entry.lattice).partition("\n")
        lines = [head, f"_crysjax_symmetry   {quoted(f'not found: {why}')}", *_items(entry, items)]
        return "\n".join(lines) + "\n" + rest
    row = found.entry
    number = counts(row.numbers, reduce=False)
    units = int(np.gcd.reduce(list(number.values())))
    lengths, angles = cif.parameters(row.lattice)
    lines = [
        f"data_{cif.block_name(entry.id)}",
        f"_chemical_formula_structural   {quoted(formula)}",
        f"_chemical_formula_sum   '{' '.join(f'{SYMBOLS[z - 1]}{n}' for z, n in sorted(number.items()))}'",
        f"_cell_formula_units_Z   {units}",
        f"_space_group_IT_number   {found.number}",
        f"_space_group_name_H-M_alt   {quoted(found.symbol)}",
        f"_space_group_name_Hall   {quoted(found.hall)}",
        *(f"_cell_{key}   {value:.8f}" for key, value in zip(cif.CELL, [*lengths, *angles])),
        f"_cell_volume   {abs(np.linalg.det(row.lattice)):.8f}",
        f"_crysjax_symmetry_tolerance_angstrom   {found.tolerance_angstrom:g}",
        f"_crysjax_symmetry_moved_atoms_by_at_most_angstrom   {found.moved_angstrom:.4f}",
        *_items(entry, items),
        "loop_", " _space_group_symop_id", " _space_group_symop_operation_xyz",
        *(f"  {k}  '{xyz(w, t)}'" for k, (w, t) in enumerate(zip(found.rotation, found.translation), 1)),
        *_sites(found),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _sites(found: Symmetrized) -> list[str]:
    """The loop of one site per orbit."""
    columns = ("label", "type_symbol", "symmetry_multiplicity", "Wyckoff_symbol", "fract_x", "fract_y", "fract_z",
               "occupancy")  # fmt: skip
    lines = ["loop_", *(f" _atom_site_{name}" for name in columns)]
    for k, (site, letter, times) in enumerate(zip(found.sites, found.letters, found.multiplicity)):
        symbol, place = SYMBOLS[int(found.entry.numbers[site]) - 1], found.entry.frac[site]
        lines.append(f"  {symbol}{k}  {symbol}  {times}  {letter}  " + "  ".join(f"{x:.8f}" for x in place) + "  1")
    return lines


def _items(entry: Entry, items: dict[str, Any]) -> list[str]:
    values = {"id": entry.id} | items
    return [f"_crysjax_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}   {_value(value)}" for name, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    return f"{value:.7g}" if np.isfinite(value) else "?"


_IN_ASCII = str.maketrans({"Å": "A", "³": "^3", "±": "+-", "–": "-"})  # CIF 1.1 knows no other characters


def quoted(text: str) -> str:
    """Text as one CIF value on one line: printable ASCII, in quotes that do not end inside of it."""
    text = text.translate(_IN_ASCII)
    text = "".join(c if c.isprintable() and c.isascii() else "?" for c in text)[:500]
    if "'" not in text or '"' in text:
        return "'" + text.replace("'", "`") + "'"
    return f'"{text}"'

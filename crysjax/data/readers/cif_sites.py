"""The atoms of a CIF block: elements, positions made exact, images under the operations; and whether they add up.

Nothing is lost or guessed: a symbol that is no element, a site without a position, and a crystal that contradicts the
formula of its own file are errors that say which.
"""

from __future__ import annotations

import re
from collections import Counter
from math import gcd
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import NUMBERS, SYMBOLS, isotope_number
from crysjax.data import lost
from crysjax.data.readers import cif_said, limits
from crysjax.data.readers.cif_symmetry import Operations
from crysjax.data.readers.cif_syntax import MISSING, Block, number

CLOSEST_IMAGES = 0.3
"""Å: two images of one site that are nearer, and not one within rounding, are no two atoms."""

_ONE_PLACE = 1e-4  # of a cell edge: rounding that every file may have; the sites of two atoms are never that near
_IDEAL = np.array([1 / 3, 2 / 3])
_CHARGE = re.compile(r"\d*\.?\d*[+-]\d*\.?\d*$|\d+$")
_TYPE = re.compile(r"(\d{0,3})([A-Za-z]{1,2})")
_PART = re.compile(r"([A-Z][a-z]?)\(?(\d*\.?\d*)\)?")
_HIDDEN = ("OH", "OW", "NH", "CH")  # labels of groups: their hydrogen may have no site of its own


class CifSites(NamedTuple):
    """The listed sites."""

    labels: list[str]
    numbers: np.ndarray  # (n,)
    frac: np.ndarray  # (n, 3)
    rounding: np.ndarray  # (n, 3) a unit of the last digit, 0 where a coordinate is a plain fraction
    isotopes: list[str]  # D, T, 13C and such, "" where no isotope is named
    unkept: list[frozenset[str]]  # what else the block says of a site and a crystal does not keep


def snap(frac: np.ndarray) -> np.ndarray:
    """0.3333 and 0.6667 mean 1/3 and 2/3: finite digits would break symmetry (pymatgen does the same)."""
    for ideal in _IDEAL:
        frac = np.where(np.abs(frac / ideal - 1) <= _ONE_PLACE, ideal, frac)
    return frac


def listed(block: Block) -> CifSites:
    """The sites of a block, those without an atom (occupancy 0, dummies) left out."""
    columns = [block.column(f"_atom_site_fract_{axis}") for axis in "xyz"]
    if None in columns:
        raise ValueError("cut short or malformed: no CIF with _atom_site_fract_x, _y and _z")
    count = len(columns[0])
    limits.refuse_sites(count)
    types = block.column("_atom_site_type_symbol")
    labels = block.column("_atom_site_label") or types or [""] * count
    types = types or [None] * count
    occupancy = block.column("_atom_site_occupancy") or ["1"] * count
    flags = block.column("_atom_site_calc_flag") or [""] * count
    hydrogens = block.column("_atom_site_attached_hydrogens") or ["0"] * count
    if {len(part) for part in (*columns, types, labels, occupancy, flags, hydrogens)} != {count}:
        raise ValueError("cut short or malformed: columns of sites that do not belong together")
    known = _elements_of(block)
    rows = zip(labels, types, zip(*columns), occupancy, flags, hydrogens)
    said = cif_said.of_sites(block, labels, types)
    found = [(_site(*row, known), more) for row, more in zip(rows, said) if row[4].lower() != "dum"]
    found = [(*site, more) for site, more in found if site is not None]
    if not found:
        raise ValueError("no atoms in its list of sites")
    names, numbers, frac, rounding, isotopes, unkept = map(list, zip(*found))
    return CifSites(names, np.array(numbers), snap(np.array(frac)), np.array(rounding), isotopes, unkept)


def _site(label, kind, place, occupancy, _flag, hydrogens, known) -> tuple | None:
    where = f"site {label[:20]}" if label else "a site"
    share = 1.0 if occupancy in MISSING else _value(occupancy, f"{where}: occupancy")
    if share == 0:
        return None
    if not 1 - 1e-6 <= share <= 1 + 1e-6:
        raise ValueError("sites with partial occupancy are not read yet" if share < 1 else
                         f"{where}: occupancy {occupancy[:20]}, expected at most 1")  # fmt: skip
    if hydrogens not in MISSING and _value(hydrogens, where) > 0:
        raise ValueError(f"{where}: {hydrogens[:10]} hydrogen atoms that have no position of their own")
    frac = [_value(x, f"{where} has no position:") for x in place]
    z = _of_label(label, known) if kind is None or kind in MISSING else of_type(kind, label)
    isotope = _isotope(label[: z == 1] if kind is None or kind in MISSING else kind)
    return label, z, frac, [_last_digit(x, value) for x, value in zip(place, frac)], isotope


def _isotope(symbol: str) -> str:
    """D, T, or an element with a mass number: the isotope that a symbol names, "" if it names none."""
    match = _TYPE.fullmatch(_CHARGE.sub("", symbol.strip()[:20]))
    name = match[1] + match[2].title() if match else ""
    return name if match and (match[1] or name in ("D", "T")) else ""


def _value(text: str, what: str) -> float:
    try:
        return number(text)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def _last_digit(text: str, value: float) -> float:
    """A unit of the last digit; nothing for multiples of 1/24, which are exact where they are finite."""
    digits = len(text.partition("(")[0].lower().partition("e")[0].partition(".")[2])
    exact = abs(value * 24 - round(value * 24)) < 1e-9
    return 0.0 if exact or digits < 2 else 10.0**-digits


def of_type(symbol: str, label: str = "") -> int:
    """The atomic number of a type symbol: an element with or without a charge or a mass number, and nothing else."""
    match = _TYPE.fullmatch(_CHARGE.sub("", symbol.strip()[:20]))
    name = match[2].title() if match else ""
    if name not in NUMBERS and name not in ("D", "T"):
        at = f" at the site {label[:20]}" if label and label != symbol else ""
        raise ValueError(f"{symbol[:20]!r}{at} is no element")
    return isotope_number(name)


def _of_label(label: str, known: set[int] | None) -> int:
    """The atomic number that a label stands for; the elements of the formula decide between Ca and C."""
    letters = re.match(r"[A-Za-z]*", label)[0]
    names = {letters[:2].title(), letters[:2].title() if letters[1:2].islower() else letters[:1].upper()}
    found = {isotope_number(name) for name in names if name in NUMBERS or name in ("D", "T")}
    found = set() if letters[2:3].islower() else found  # Tet1 is no tellurium
    if len(found) > 1 and known is not None:
        found = found & known or found
    if len(found) > 1 and letters[:2] not in SYMBOLS:
        raise ValueError(f"the label {label[:20]!r} can be more than one element; a type symbol has to say which")
    if not found or (letters.upper()[:2] in _HIDDEN and known is None):
        raise ValueError(f"{label[:20]!r} is no element, and there is no type symbol")
    return max(found, key=lambda z: len(SYMBOLS[z - 1]))


def _elements_of(block: Block) -> set[int] | None:
    formula = announced(block.value("_chemical_formula_sum") or "")
    return set(formula) if formula else None


def images(sites: CifSites, operations: Operations, lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray, lost.Lost]:
    """Atomic numbers (m,) and fractions (m, 3) of all atoms in the cell, and what of them is not kept.

    A site on a special position lies there.
    """
    numbers, orbits, isotopes, unkept = [], [], [], Counter()
    for label, z, frac, rounding, isotope, more in zip(*sites):
        orbits.append(_orbit(label, frac, rounding, operations, lattice))
        numbers += [z] * len(orbits[-1])
        isotopes += [isotope] * len(orbits[-1])
        unkept.update(dict.fromkeys(sorted(more), len(orbits[-1])))
    limits.refuse_sites(len(numbers))
    frac = np.concatenate(orbits)
    _refuse_one_place(sites.labels, [len(orbit) for orbit in orbits], frac)
    return np.array(numbers), frac, lost.isotopes(isotopes) | {(what, "not kept"): n for what, n in unkept.items()}


def _orbit(label: str, frac: np.ndarray, rounding: np.ndarray, found: Operations, lattice: np.ndarray) -> np.ndarray:
    """The images of one site. Those that rounding alone separates from it say where it lies exactly: at their mean."""
    if len(found.rotation) == 1:
        return frac[None] % 1
    off = found.rotation @ frac + found.translation - frac
    off -= np.round(off)
    margin = 0.5 * (np.abs(found.rotation) @ rounding + rounding) + _ONE_PLACE
    still = (np.abs(off) <= margin).all(1) & (np.linalg.norm(off @ lattice, axis=1) < CLOSEST_IMAGES)
    frac = frac + off[still].mean(0)
    places = found.rotation @ frac + found.translation
    apart = places[:, None] - places[None]
    distance = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
    first = np.flatnonzero((distance < 1e-3).argmax(1) == np.arange(len(places)))
    nearest = (distance[np.ix_(first, first)] + 9 * CLOSEST_IMAGES * np.eye(len(first))).min()
    if nearest < CLOSEST_IMAGES:
        raise ValueError(f"site {label[:20]}: symmetry makes images of it that are {nearest:.2g} Å apart")
    if len(first) * still.sum() != len(places):
        raise ValueError(f"site {label[:20]}: too near to a special position to say whether it lies there")
    return places[first] % 1


def _refuse_one_place(labels: list[str], sizes: list[int], frac: np.ndarray) -> None:
    """An error for two sites of the list that have an atom in one place."""
    from scipy.spatial import cKDTree

    inside = np.where(frac % 1 >= 1, 0.0, frac % 1)
    pairs = cKDTree(inside, boxsize=1).query_pairs(_ONE_PLACE, output_type="ndarray")
    if len(pairs):
        first, second = (labels[i] for i in np.repeat(np.arange(len(labels)), sizes)[pairs[0]])
        raise ValueError(f"the sites {first[:20]!r} and {second[:20]!r} have atoms in one place")


def announced(formula: str) -> dict[int, float] | None:
    """`C2 H6 O` -> counts by atomic number; `None` if it is not understood, which is then no word to be held to."""
    parts = formula.replace("'", " ").split()
    counts: dict[int, float] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if not match or (match[1] not in NUMBERS and match[1] not in ("D", "T")):
            return None
        z = isotope_number(match[1])
        counts[z] = counts.get(z, 0.0) + float(match[2] or 1)
    return counts if counts and min(counts.values()) > 0 else None


def refuse_contradiction(numbers: np.ndarray, formula: str | None, units: str | None) -> None:
    """An error if the atoms of the cell are not a multiple of the formula, or not the multiple that Z says.

    pymatgen writes the atoms of the whole cell as the formula and, all the same, the number of formula units (of O2 for
    oxygen) as Z.
    """
    wanted = announced(formula or "")
    if not wanted:
        return
    found = dict(zip(*(part.tolist() for part in np.unique(numbers, return_counts=True))))
    ratios = np.array([found.get(z, 0) / count for z, count in wanted.items()])
    said = f"{len(numbers)} sites, {_said(found)}, but the formula is {' '.join(formula.split())[:60]}"
    if set(found) != set(wanted) or np.abs(ratios / ratios.mean() - 1).max() > 0.01:
        raise ValueError(f"cut short or malformed: {said}")
    try:
        z = number(units or "?")
    except ValueError:
        return
    whole = abs(ratios.mean() - 1) < 0.01 and z >= 1 and gcd(*found.values()) % z == 0
    if z >= 1 and abs(ratios.mean() / z - 1) > 0.01 and not whole:
        raise ValueError(f"cut short or malformed: {said} and Z is {units[:20]}")


def _said(counts: dict[int, int]) -> str:
    return " ".join(f"{SYMBOLS[z - 1]}{count if count > 1 else ''}" for z, count in counts.items())

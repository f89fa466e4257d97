"""CIF without symmetry: a fast strict reader for the P1 files that pymatgen and this package write, and the writer.

Data sets such as CDVAE's store tens of thousands of P1 CIFs; a general CIF parser takes about 5 ms for each of them.
`parse_p1` reads exactly that layout and answers `None` for everything else, which then goes to the general parser.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from crysjax.data import limits
from crysjax.data.elements import NUMBERS, SYMBOLS, formula

_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_COLUMNS = ("type_symbol", "label", "symmetry_multiplicity", "fract_x", "fract_y", "fract_z", "occupancy")
_SITES = "loop_\n" + "".join(f" _atom_site_{name}\n" for name in _COLUMNS)
_IDENTITY = re.compile(r"_symmetry_equiv_pos_as_xyz\n\s+1\s+'x, y, z'\nloop_\n")
_SUM = re.compile(r"_chemical_formula_sum +'?([A-Za-z0-9 ]+)")
_BLOCK = re.compile(r"(?m)^(?=data_)")
_IDEAL = np.array([1 / 3, 2 / 3])
_FRAC_TOLERANCE = 1e-4
_MAGNETIC = re.compile(r"(?i)_(space_group|magnetic|symop)[\w.]*magn|_magnetic")
_NEGATIVE = re.compile(r"\s*_cell_length_[abc]\s+['\"]?-")
_P1 = re.compile(r"^\s*_(symmetry|space_group)_(\S*H-M\S*\s+['\"]?P ?1['\"]?|(Int_Tables|IT)_number\s+1)\s*$")
_MOST_OPERATIONS = 192  # of a conventional cell

EXPANDED = 3 * limits.SITES
"""Sites times symmetry operations of one block: pymatgen compares every image with every one before it. 6,000 images
take 2.5 s, 20,000 take 21 s. Images of special positions coincide, so that more images than sites are in order."""

QUOTE_STEPS = 10_000_000
"""Quotes times characters, summed over lines: a bound for what a search for the closing quote can cost."""


class P1(NamedTuple):
    """What a P1 block holds."""

    name: str
    numbers: np.ndarray  # (n,)
    frac: np.ndarray  # (n, 3) float64, as written
    lattice: np.ndarray  # (3, 3) float64 rows in Å


def lattice_from_parameters(lengths: np.ndarray, angles_degree: np.ndarray) -> np.ndarray:
    """Rows a, b, c with c along z and a in the xz plane, as pymatgen lays them: (..., 3), (..., 3) -> (..., 3, 3).

    Lengths that are not above zero, and angles that are not between 0 and 180 degrees, give NaN.
    """
    lengths, angles_degree = np.asarray(lengths, float), np.asarray(angles_degree, float)
    angles_degree = np.where((angles_degree > 0) & (angles_degree < 180), angles_degree, np.nan)
    a, b, c = np.moveaxis(np.where(lengths > 0, lengths, np.nan), -1, 0)
    angles = np.moveaxis(np.radians(angles_degree), -1, 0)
    (cos_a, cos_b, cos_g), (sin_a, sin_b, _) = np.cos(angles), np.sin(angles)
    cos_star = np.clip((cos_a * cos_b - cos_g) / (sin_a * sin_b), -1, 1)
    zero = np.zeros_like(a)
    rows = (
        (a * sin_b, zero, a * cos_b),
        (-b * sin_a * cos_star, b * sin_a * np.sqrt(1 - cos_star**2), b * cos_a),
        (zero, zero, c),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def parameters(lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths in Å and angles in degrees of one cell: (3, 3) -> (3,), (3,)."""
    lattice = np.asarray(lattice, float)
    lengths = np.linalg.norm(lattice, axis=1)
    cos = [lattice[i] @ lattice[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return lengths, np.degrees(np.arccos(np.clip(cos, -1, 1)))


def blocks(text: str) -> list[str]:
    """The data blocks of a CIF text, each from its `data_` line on."""
    return _BLOCK.split(text)[1:]


def parse_p1(block: str) -> P1 | None:
    """One block in the P1 layout; `None` if anything in it differs from that layout.

    Sites that do not add up to the formula are an error: a file cut short between two lines looks whole otherwise.
    Two atoms in one place are read as written: whether that is a crystal is for the evaluation to say, and samples that
    a reader drops or merges would make a generator look better than it is.
    """
    head, found, sites = block.partition(_SITES)
    if not found or "_symmetry_space_group_name_H-M   'P 1'" not in head or not _IDENTITY.search(head + "loop_\n"):
        return None
    try:
        cell = [float(re.search(rf"_cell_{name} +(\S+)\n", head)[1]) for name in _CELL]
        rows = [line.split() for line in sites.splitlines() if line.strip()]
        numbers = np.array([NUMBERS[row[0]] for row in rows])
        frac = np.array([[float(x) for x in row[3:6]] for row in rows])
        plain = all(len(row) == 7 and int(row[2]) == 1 and float(row[6]) == 1.0 for row in rows)
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    limits.refuse_sites(len(rows))
    if not plain or not rows or not np.isfinite(frac).all():
        return None
    announced = _SUM.search(head)
    if announced and sum(int(n or 1) for n in re.findall(r"[A-Z][a-z]?(\d*)", announced[1])) != len(rows):
        raise ValueError(f"cut short or malformed: {len(rows)} sites, but the formula is {announced[1]}")
    name = head.split(None, 1)[0].removeprefix("data_")
    return P1(name, numbers, _snap(frac), lattice_from_parameters(np.array(cell[:3]), np.array(cell[3:])))


def tame(text: str) -> str:
    """The block without empty lines, if a general parser will be done with it in seconds; a ValueError if not.

    Bounds are structural: the number of images that symmetry makes, and quotes a line. Comments and empty lines go
    first, because patterns that look for the next word start anew at each of them.
    """
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if sum(len(line) * (line.count("'") + line.count('"')) for line in lines) > QUOTE_STEPS:
        raise ValueError("malformed: lines of nothing but quotes")
    if _MAGNETIC.search(text):  # pymatgen evaluates their change of basis as an expression
        raise ValueError("magnetic CIF files are not read")
    if any(_NEGATIVE.match(line) for line in lines):
        raise ValueError("a cell length below zero")
    if not any(line.lstrip().startswith("_atom_site_") for line in lines):
        raise ValueError("cut short or malformed: no CIF with _atom_site_ columns")
    sites, operations = _counts(lines)
    limits.refuse_sites(sites)
    if sites * operations > EXPANDED:
        raise ValueError(f"{sites} sites times {operations} operations; at most {EXPANDED} images are made")
    return "\n".join(lines) + "\n"


def _counts(lines: list[str]) -> tuple[int, int]:
    """Bounds from above for the rows of the loop of sites, and for the operations of the group."""
    sites, operations, columns, words, rows = 0, 0, [], 0, 0
    for line in [*lines, "loop_"]:
        word = line.split(None, 1)[0]
        if word.startswith(("_", "loop_")):
            count = max(words // max(len(columns), 1), 0)
            if any(c.startswith("_atom_site_") for c in columns):
                sites = max(sites, count)
            if any(c.endswith(("_as_xyz", "_operation_xyz")) for c in columns):
                operations = max(operations, count, rows)
            columns, words, rows = ([] if words or word == "loop_" else columns), 0, 0
            columns += [word] if word.startswith("_") else []
        else:
            words, rows = words + len(line.replace(", ", ",").split()), rows + 1
    return sites, operations or (1 if any(_P1.search(line) for line in lines) else _MOST_OPERATIONS)


def _snap(frac: np.ndarray) -> np.ndarray:
    """0.3333 and 0.6667 mean 1/3 and 2/3: finite digits would break symmetry (pymatgen does the same)."""
    for ideal in _IDEAL:
        frac = np.where(np.abs(frac / ideal - 1) <= _FRAC_TOLERANCE, ideal, frac)
    return frac


def format_p1(name: str, numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> str:
    """One CIF block in P1 with all sites written out; pymatgen, ASE and `parse_p1` read it."""
    lengths, angles = parameters(lattice)
    values = zip(_CELL, [*lengths, *angles])
    volume = abs(np.linalg.det(np.asarray(lattice, float)))
    composition = " ".join(f"{SYMBOLS[z - 1]}{c}" for z, c in zip(*np.unique(np.asarray(numbers), return_counts=True)))
    lines = [f"data_{re.sub(r'[^A-Za-z0-9_.+-]', '_', name) or 'crystal'}", "_symmetry_space_group_name_H-M   'P 1'"]
    lines += [f"_cell_{key}   {value:.8f}" for key, value in values]
    lines += ["_symmetry_Int_Tables_number   1", f"_chemical_formula_structural   {formula(numbers)}"]
    lines += [f"_chemical_formula_sum   '{composition}'", f"_cell_volume   {volume:.8f}"]
    lines += ["loop_", " _symmetry_equiv_pos_site_id", " _symmetry_equiv_pos_as_xyz", "  1  'x, y, z'"]
    symbols = [SYMBOLS[z - 1] for z in np.asarray(numbers).tolist()]
    places = ["  ".join(f"{x:.8f}" for x in row) for row in np.asarray(frac, float).tolist()]
    sites = [f"  {symbol}  {symbol}{i}  1  {place}  1" for i, (symbol, place) in enumerate(zip(symbols, places))]
    return "\n".join(lines) + "\n" + _SITES + "\n".join(sites) + "\n"

"""CIF without symmetry: a fast strict reader for the P1 files that pymatgen and this package write, and the writer.

Data sets such as CDVAE's store tens of thousands of P1 CIFs; a general CIF parser takes about 5 ms for each of them.
`parse_p1` reads exactly that layout and answers `None` for everything else, which then goes to the general parser.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from crysjax.data.elements import NUMBERS, SYMBOLS, formula

_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_COLUMNS = ("type_symbol", "label", "symmetry_multiplicity", "fract_x", "fract_y", "fract_z", "occupancy")
_SITES = "loop_\n" + "".join(f" _atom_site_{name}\n" for name in _COLUMNS)
_IDENTITY = re.compile(r"_symmetry_equiv_pos_as_xyz\n\s+1\s+'x, y, z'\nloop_\n")
_SUM = re.compile(r"_chemical_formula_sum +'?([A-Za-z0-9 ]+)")
_BLOCK = re.compile(r"(?m)^(?=data_)")
_IDEAL = np.array([1 / 3, 2 / 3])
_FRAC_TOLERANCE = 1e-4


class P1(NamedTuple):
    """What a P1 block holds."""

    name: str
    numbers: np.ndarray  # (n,)
    frac: np.ndarray  # (n, 3) float64, as written
    lattice: np.ndarray  # (3, 3) float64 rows in Å


def lattice_from_parameters(lengths: np.ndarray, angles_degree: np.ndarray) -> np.ndarray:
    """Rows a, b, c with c along z and a in the xz plane, as pymatgen lays them: (..., 3), (..., 3) -> (..., 3, 3)."""
    a, b, c = np.moveaxis(np.asarray(lengths, float), -1, 0)
    angles = np.moveaxis(np.radians(np.asarray(angles_degree, float)), -1, 0)
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
    if not plain or not rows or not np.isfinite(frac).all() or _coincide(frac):
        return None
    announced = _SUM.search(head)
    if announced and sum(int(n or 1) for n in re.findall(r"[A-Z][a-z]?(\d*)", announced[1])) != len(rows):
        raise ValueError(f"cut short or malformed: {len(rows)} sites, but the formula is {announced[1]}")
    name = head.split(None, 1)[0].removeprefix("data_")
    return P1(name, numbers, _snap(frac), lattice_from_parameters(np.array(cell[:3]), np.array(cell[3:])))


def _coincide(frac: np.ndarray) -> bool:
    """Whether two sites share a position; a general parser merges such sites or rejects them."""
    difference = frac[:, None] - frac[None]
    close = (np.abs(difference - np.round(difference)) < _FRAC_TOLERANCE).all(-1)
    return bool(close.sum() > len(frac))


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

"""CIF: a fast strict reader for the P1 files that pymatgen and this package write, a general one, and the writer.

Data sets such as CDVAE's store tens of thousands of P1 CIFs. `parse_p1` reads exactly that layout and answers `None`
for everything else, which then goes the general way: `cif_syntax` for the grammar, `cif_symmetry` for the operations,
`cif_sites` for the atoms. Either way the crystal has to agree with the formula that its file gives.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import NUMBERS, SYMBOLS, formula
from crysjax.data.datasets import Entry
from crysjax.data.lost import Lost
from crysjax.data.readers import cif_sites, cif_symmetry, cif_syntax, limits
from crysjax.data.readers.cif_syntax import blocks, has_sites

CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_COLUMNS = ("type_symbol", "label", "symmetry_multiplicity", "fract_x", "fract_y", "fract_z", "occupancy")
_SITES = "loop_\n" + "".join(f" _atom_site_{name}\n" for name in _COLUMNS)
_IDENTITY = re.compile(r"_symmetry_equiv_pos_as_xyz\n\s+1\s+'x, y, z'\nloop_\n")
_SUM = re.compile(r"_chemical_formula_sum +'?([A-Za-z0-9 ]+)")
_UNITS = re.compile(r"_cell_formula_units_Z +(\d+)")
_MULTIPLICITY = ("_atom_site_site_symmetry_multiplicity", "_atom_site_symmetry_multiplicity")
_UNREAD = {"magn": "magnetic CIF files are not read", "_cell_modulation_dimension": "modulated crystals are not read"}

EXPANDED = 3 * limits.SITES
"""Sites times symmetry operations of one block: images of special positions coincide, so that more images than sites
are in order."""


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


def right_handed(frac: np.ndarray, lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same atoms in the same places in a right-handed cell: all three axes turned round if it is left-handed."""
    if np.linalg.det(np.asarray(lattice, float)) >= 0:
        return frac, lattice
    return -np.asarray(frac, float) % 1, -np.asarray(lattice)


def parameters(lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths in Å and angles in degrees of one cell: (3, 3) -> (3,), (3,)."""
    lattice = np.asarray(lattice, float)
    lengths = np.linalg.norm(lattice, axis=1)
    cos = [lattice[i] @ lattice[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return lengths, np.degrees(np.arccos(np.clip(cos, -1, 1)))


def parse_p1(block: str) -> P1 | None:
    """One block in the P1 layout; `None` if anything in it differs from that layout.

    Sites that do not add up to the formula are an error: a file cut short between two lines looks whole otherwise.
    Two atoms in one place are read as written: whether that is a crystal is for the evaluation to say, and samples that
    a reader drops or merges would make a generator look better than it is.
    """
    head, found, sites = block.partition(_SITES)
    if not found or "_symmetry_space_group_name_H-M   'P 1'" not in head or not _IDENTITY.search(head + "loop_\n"):
        return None
    if "_atom_" in head:  # it says more of its atoms, which the general reader counts
        return None
    try:
        cell = [float(re.search(rf"_cell_{name} +(\S+)\n", head)[1]) for name in CELL]
        rows = [line.split() for line in sites.splitlines() if line.strip()]
        numbers = np.array([NUMBERS[row[0]] for row in rows])
        frac = np.array([[float(x) for x in row[3:6]] for row in rows])
        plain = all(len(row) == 7 and int(row[2]) == 1 and float(row[6]) == 1.0 for row in rows)
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    limits.refuse_sites(len(rows))
    if not plain or not rows or not np.isfinite(frac).all():
        return None
    said, units = _SUM.search(head), _UNITS.search(head)
    cif_sites.refuse_contradiction(numbers, said and said[1], units and units[1])
    name = head.split(None, 1)[0].removeprefix("data_")
    return P1(name, numbers, cif_sites.snap(frac), lattice_from_parameters(np.array(cell[:3]), np.array(cell[3:])))


def structures(name: str, text: str) -> list[tuple[str, str]]:
    """A label and the text of each block that lists atoms; of the whole text if none does, for its error."""
    found = [block for block in blocks(text) if has_sites(block)] or blocks(text)[:1] or [""]
    if len(found) == 1:
        return [(name, found[0])]
    own = [(block.strip()[5:60].split(None, 1) or [""])[0] for block in found]
    return [(f"{name}-{part}-{i}", block) for i, (part, block) in enumerate(zip(own, found))]


def parse(name: str, text: str, properties: dict[str, float] | None = None) -> Entry:
    """The crystal of a text in which one data block lists atoms; blocks that list none are passed over."""
    found = [block for block in blocks(text) if has_sites(block)]
    if not found:
        raise ValueError("cut short or malformed: no CIF with _atom_site_ columns")
    if len(found) > 1:
        raise ValueError(f"{len(found)} structures where one was expected")
    plain = parse_p1(found[0])
    numbers, frac, lattice, unkept = (*plain[1:], {}) if plain else _parse_any(found[0])
    return Entry(name, numbers, frac, lattice, properties or {}, lost=unkept)


def _parse_any(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Lost]:
    """Atomic numbers, fractions, lattice and what is not kept of a block in any setting that can be told."""
    block = cif_syntax.parse(text)
    for part, why in _UNREAD.items():
        if any(part in name for name in block.columns):
            raise ValueError(why)
    lattice, sites = _cell(block), cif_sites.listed(block)
    if (count := cif_symmetry.count(block)) * len(sites.numbers) > EXPANDED:
        raise ValueError(f"{len(sites.numbers)} sites times {count} operations; at most {EXPANDED} images are made")
    settings = cif_symmetry.possible(block, lattice) or [_no_symmetry(block, sites)]
    crystals, errors = [], []
    for setting in settings:
        try:
            crystals.append(_expanded(block, sites, setting, lattice))
        except ValueError as error:
            errors.append(error)
    if not crystals:
        raise errors[0]
    numbers, frac, unkept = _only(block, crystals, settings)
    return numbers, frac, lattice, unkept


def _cell(block: cif_syntax.Block) -> np.ndarray:
    """The lattice; an angle that is not given is a right one, as the dictionary has it."""
    given = [block.value(f"_cell_{name}") for name in CELL]
    if None in given[:3]:
        raise ValueError("cut short or malformed: no _cell_length_a, _b and _c")
    values = np.array([cif_syntax.number(text) if text else 90.0 for text in given])
    if values[:3].min() < 0:
        raise ValueError("a cell length below zero")
    lattice = lattice_from_parameters(values[:3], values[3:])
    if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-6:
        raise ValueError(f"the cell has no volume: lengths {values[:3].tolist()}, angles {values[3:].tolist()}")
    return lattice


def _no_symmetry(block: cif_syntax.Block, sites: cif_sites.CifSites) -> cif_symmetry.Operations:
    """P1 for a block that is silent about its symmetry, if its formula and Z say that all atoms are listed."""
    said, units = block.value("_chemical_formula_sum"), block.value("_cell_formula_units_z")
    if not (said and units and cif_sites.announced(said)):
        raise ValueError("neither symmetry operations nor a space group, so that atoms may be missing")
    cif_sites.refuse_contradiction(sites.numbers, said, units)
    return cif_symmetry.Operations(np.eye(3)[None], np.zeros((1, 3)), "P1")


def _expanded(block, sites, setting, lattice) -> tuple[np.ndarray, np.ndarray, Lost]:
    numbers, frac, unkept = cif_sites.images(sites, setting, lattice)
    said, units = block.value("_chemical_formula_sum"), block.value("_cell_formula_units_z")
    cif_sites.refuse_contradiction(numbers, said, units)
    return numbers, frac, unkept


def _only(block, crystals: list[tuple], settings: list) -> tuple[np.ndarray, np.ndarray, Lost]:
    """The one crystal that the block can mean; multiplicities, where given, decide between two origins."""
    if len(crystals) > 1 and (column := block.column(*_MULTIPLICITY)) and all(m.isdecimal() for m in column):
        crystals = [crystal for crystal in crystals if len(crystal[0]) == sum(map(int, column))] or crystals
    if len(crystals) > 1:
        names = " or ".join(setting.name for setting in settings)
        counts = " or ".join(str(len(numbers)) for numbers, *_ in crystals)
        raise ValueError(f"{names}? The origin is not said, and decides between {counts} sites")
    return crystals[0]


def block_name(name: str) -> str:
    """The name of a data block for an id: no blanks, nothing that means something to CIF."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name) or "crystal"


def format_p1(name: str, numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> str:
    """One CIF block in P1 with all sites written out; pymatgen, ASE and `parse_p1` read it.

    Lengths and angles have no hand: a left-handed cell is written with its axes turned round, the crystal as it is.
    """
    frac, lattice = right_handed(frac, lattice)
    lengths, angles = parameters(lattice)
    values = zip(CELL, [*lengths, *angles])
    volume = abs(np.linalg.det(np.asarray(lattice, float)))
    composition = " ".join(f"{SYMBOLS[z - 1]}{c}" for z, c in zip(*np.unique(np.asarray(numbers), return_counts=True)))
    lines = [f"data_{block_name(name)}", "_symmetry_space_group_name_H-M   'P 1'"]
    lines += [f"_cell_{key}   {value:.8f}" for key, value in values]
    lines += ["_symmetry_Int_Tables_number   1", f"_chemical_formula_structural   {formula(numbers)}"]
    lines += [f"_chemical_formula_sum   '{composition}'", f"_cell_volume   {volume:.8f}"]
    lines += ["loop_", " _symmetry_equiv_pos_site_id", " _symmetry_equiv_pos_as_xyz", "  1  'x, y, z'"]
    symbols = [SYMBOLS[z - 1] for z in np.asarray(numbers).tolist()]
    places = ["  ".join(f"{x:.8f}" for x in row) for row in np.asarray(frac, float).tolist()]
    sites = [f"  {symbol}  {symbol}{i}  1  {place}  1" for i, (symbol, place) in enumerate(zip(symbols, places))]
    return "\n".join(lines) + "\n" + _SITES + "\n".join(sites) + "\n"

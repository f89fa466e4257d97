"""Energy, forces and stress of a frame under the names that data sets for potentials use, and its other labels.

ASE keeps what it knows as `energy`, `forces` and `stress` in a calculator and everything else in `info` and `arrays`.
Data sets name reference values `REF_energy` or `dft_forces` so that no calculator overwrites them, and older ones give
a virial: stress = -virial / volume. Names are compared without case.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from crysjax.data.datasets import ENERGY, FORCES, STRESS, SourceRow
from crysjax.data.labels import IDS, cells

if TYPE_CHECKING:
    from ase import Atoms

QUANTITIES = {
    "energy": ("energy", "total_energy", "potential_energy", "free_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress", "virial", "virials"),
}
"""What potentials learn from -> its names in files, the best first."""

_REFERENCE = re.compile(r"(ref|reference|dft|qm|target)_(.+)|(.+)_(ref|reference|dft|qm|target)")
_STRUCTURE = {"occupancy", "spacegroup", "unit_cell"}  # of a CIF that ASE read
_KNOWN_ARRAYS = {"numbers", "positions", "initial_magmoms", "initial_charges", "tags", "momenta", "masses"}


def of_atoms(atoms: Atoms) -> tuple[dict[str, float], dict[str, np.ndarray], SourceRow]:
    """Properties (energy per atom, stress in Voigt order), forces (n, 3) by name, and all other labels as a row."""
    results = {} if atoms.calc is None else atoms.calc.results
    values = dict(atoms.info) | {k: v for k, v in atoms.arrays.items() if k not in _KNOWN_ARRAYS} | dict(results)
    found = {quantity: _named(values, names) for quantity, names in QUANTITIES.items()}
    taken = {quantity: names[0] for quantity, names in found.items() if names}
    passed = {other: f"{taken[q]!r} is read" for q, names in found.items() for other in names[1:]}
    rest = {k: v for k, v in values.items() if k not in {*taken.values(), *passed, *IDS, *_STRUCTURE}}
    whole = {k: v for k, v in rest.items() if not isinstance(v, np.ndarray | list | tuple | dict)}
    passed |= {k: _kind(v) for k, v in rest.items() if k not in whole}
    row = SourceRow(cells(whole.items()), taken, passed)
    return *_read(taken, values, len(atoms), abs(np.linalg.det(np.asarray(atoms.cell)))), row


def _kind(value: object) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _named(values: dict[str, object], names: tuple[str, ...]) -> list[str]:
    """The keys that name a quantity: marked as reference values first, then in the order of `names`."""
    ranked = []
    for key in values:
        match = _REFERENCE.fullmatch(key.lower())
        plain = (match[2] or match[3]) if match else key.lower()
        if plain in names:
            ranked.append((match is None, names.index(plain), key))
    return [key for *_, key in sorted(ranked)]


def _read(taken: dict[str, str], values: dict, sites: int, volume: float) -> tuple[dict, dict]:
    properties, of_sites = {}, {}
    if "energy" in taken:
        properties[ENERGY] = _number(taken["energy"], values[taken["energy"]]) / max(sites, 1)
    if "forces" in taken:
        of_sites[FORCES] = values[taken["forces"]]
    if "stress" in taken:
        key = taken["stress"]
        of_cell = -1 / volume if "virial" in key.lower() else 1.0
        properties |= dict(zip(STRESS, (of_cell * _voigt(key, values[key])).tolist()))
    return properties, of_sites


def _number(key: str, value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{key} is {str(value)[:40]!r}; expected a number in eV") from None


def _voigt(key: str, values: object) -> np.ndarray:
    """Stress in ASE's Voigt order, which is ours: (6,) as it is, or out of (3, 3), or of its nine numbers."""
    try:
        stress = np.asarray(values, float)
    except (TypeError, ValueError):
        raise ValueError(f"{key} is {str(values)[:40]!r}; expected six or nine numbers") from None
    stress = stress.reshape(3, 3) if stress.shape == (9,) else stress
    if stress.shape == (3, 3):
        stress = ((stress + stress.T) / 2)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if stress.shape != (6,):
        raise ValueError(f"{key} of shape {stress.shape}, expected (6,) or (3, 3)")
    return stress

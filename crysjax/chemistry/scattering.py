"""What each element scatters: X-ray form factors and neutron lengths as arrays over the species axis.

The numbers are pymatgen's own files, read where pymatgen is installed and not copied: `atomic_scattering_params.json`
(X-rays; De Graef & McHenry, Structure of Materials, ch. 12) and `neutron_scattering_length.json` (natural isotope
mixtures; Neutron Data Booklet, 2nd ed. 2003). One form serves both:

    f(s) = constant - 41.78214 s² Σ_i a_i exp(-b_i s²),   s = sin θ / λ = 1 / (2 d),

with the atomic number as the constant for X-rays, and the length (fm) with a = 0 for neutrons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import NUMBERS, SYMBOLS

WAVELENGTHS = {
    "CuKa": 1.54184, "CuKa2": 1.54439, "CuKa1": 1.54056, "CuKb1": 1.39222,
    "MoKa": 0.71073, "MoKa2": 0.71359, "MoKa1": 0.70930, "MoKb1": 0.63229,
    "CrKa": 2.29100, "CrKa2": 2.29361, "CrKa1": 2.28970, "CrKb1": 2.08487,
    "FeKa": 1.93735, "FeKa2": 1.93998, "FeKa1": 1.93604, "FeKb1": 1.75661,
    "CoKa": 1.79026, "CoKa2": 1.79285, "CoKa1": 1.78896, "CoKb1": 1.63079,
    "AgKa": 0.560885, "AgKa2": 0.563813, "AgKa1": 0.559421, "AgKb1": 0.497082,
}  # fmt: skip
"""X-ray lines by their names, in Å; `Ka` is the mean of the doublet."""
NEUTRON = "neutron"
NEUTRON_WAVELENGTH = 1.54184
_FILES = {"xray": "atomic_scattering_params.json", NEUTRON: "neutron_scattering_length.json"}


class Scattering(NamedTuple):
    """A radiation and what it sees of every species; all leaves are arrays, so that one program serves every kind.

    The species axis has to be that of the crystals: `NUM_SPECIES` columns, or those that `of_species` picks.
    """

    wavelength: np.ndarray  # () in Å
    polarized: np.ndarray  # () 1 where the Lorentz factor comes with (1 + cos² 2θ), 0 for neutrons
    constant: np.ndarray  # (s,) atomic number, or scattering length in fm
    amplitude: np.ndarray  # (s, 4) a_i
    width: np.ndarray  # (s, 4) b_i in Å²
    debye_waller: np.ndarray  # (s,) B in Å²: amplitudes fall by exp(-B s²)
    known: np.ndarray  # (s,) 1 where the table has the element, else 0


def scattering(
    radiation: str = "CuKa", *, wavelength_angstrom: float | None = None,
    debye_waller_angstrom2: Mapping[str, float] | None = None, dtype=np.float32,
) -> Scattering:  # fmt: skip
    """The table of a radiation: a name of `WAVELENGTHS`, or "neutron".

    Args:
        wavelength_angstrom: instead of the line's own (X-rays) or 1.54184 Å (neutrons, as pymatgen).
        debye_waller_angstrom2: isotropic B of elements by their symbols; 0 for all others.
    """
    if radiation not in (*WAVELENGTHS, NEUTRON):
        raise ValueError(f"radiation: {radiation!r}; expected {NEUTRON} or one of {', '.join(WAVELENGTHS)}")
    neutron = radiation == NEUTRON
    own = NEUTRON_WAVELENGTH if neutron else WAVELENGTHS[radiation]
    wavelength = own if wavelength_angstrom is None else float(wavelength_angstrom)
    if not 0 < wavelength < np.inf:
        raise ValueError(f"wavelength_angstrom: {wavelength}; expected a number above 0")
    constant, amplitude, width, known = _table(NEUTRON if neutron else "xray")
    leaves = wavelength, 0.0 if neutron else 1.0, constant, amplitude, width, _b_factors(debye_waller_angstrom2), known
    return Scattering(*(np.asarray(leaf, dtype) for leaf in leaves))


def of_species(table: Scattering, numbers: np.ndarray) -> Scattering:
    """The columns of these atomic numbers, any shape; 0 is a species that scatters nothing: (...,) -> (..., s, ...)."""
    rows = np.maximum(np.asarray(numbers, int) - 1, 0)
    real = (np.asarray(numbers) > 0).astype(table.constant.dtype)
    constant, amplitude, width, debye_waller, known = (leaf[rows] for leaf in table[2:])
    return Scattering(
        table.wavelength, table.polarized, constant * real, amplitude * real[..., None], width, debye_waller,
        np.maximum(known, 1 - real),
    )  # fmt: skip


def _b_factors(given: Mapping[str, float] | None) -> np.ndarray:
    values = np.zeros(NUM_SPECIES)
    for symbol, value in (given or {}).items():
        if symbol not in NUMBERS or not 0 <= value < np.inf:
            raise ValueError(f"debye_waller_angstrom2: {symbol} = {value}; expected elements with B from 0 on, in Å²")
        values[NUMBERS[symbol] - 1] = value
    return values


@cache
def _table(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Constant, amplitude, width and known of every species, in double precision."""
    entries = json.loads((_folder() / _FILES[kind]).read_text())
    constant, known = np.zeros(NUM_SPECIES), np.zeros(NUM_SPECIES)
    amplitude, width = np.zeros((NUM_SPECIES, 4)), np.zeros((NUM_SPECIES, 4))
    for z, symbol in enumerate(SYMBOLS, start=1):
        if symbol not in entries:
            continue
        known[z - 1] = 1
        constant[z - 1] = entries[symbol] if kind == NEUTRON else z
        if kind != NEUTRON:
            amplitude[z - 1], width[z - 1] = np.array(entries[symbol], float).T
    return constant, amplitude, width, known


def _folder() -> Path:
    """Where pymatgen keeps its tables; the modules beside them import a plotting library, so they are not imported."""
    from importlib import util

    found = util.find_spec("pymatgen.analysis.diffraction")
    if found is None or not found.submodule_search_locations:
        raise ValueError("scattering: pymatgen, whose tables of scattering factors are read, is not installed")
    return Path(next(iter(found.submodule_search_locations)))

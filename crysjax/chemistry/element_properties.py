"""What is tabulated of each element, as columns of length NUM_SPECIES: column `z - 1` is atomic number `z`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import NUMBERS, SYMBOLS

G_CM3_PER_AMU_ANGSTROM3 = 1.66053906660
"""1 amu/Å³ in g/cm³ (CODATA 2018)."""


@lru_cache(maxsize=1)
def masses_amu() -> np.ndarray:
    """Standard atomic masses, pymatgen's table: (NUM_SPECIES,)."""
    from pymatgen.core import Element

    return np.array([float(Element(symbol).atomic_mass) for symbol in SYMBOLS])


def cell_masses_amu(numbers: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
    """Mass of each cell, of the atomic numbers of all cells one after another and the sizes of the cells: (m,)."""
    owner = np.repeat(np.arange(len(num_atoms)), num_atoms)
    return np.bincount(owner, masses_amu()[numbers.astype(int) - 1], len(num_atoms))


@lru_cache(maxsize=1)
def covalent_radii_angstrom() -> np.ndarray:
    """Covalent radii of Cordero et al. 2008, ASE's table; NaN beyond curium, where there are none: (NUM_SPECIES,)."""
    from ase.data import covalent_radii

    radii = np.array(covalent_radii[1 : NUM_SPECIES + 1], float)
    return np.where(np.arange(NUM_SPECIES) >= NUMBERS["Cm"], np.nan, radii)  # ASE's stand-in is protactinium's 2.00 Å


@lru_cache(maxsize=1)
def ionic_radii_angstrom() -> np.ndarray:
    """Mean of the ionic radii of an element's states, pymatgen's table; NaN = none: (NUM_SPECIES,)."""
    from pymatgen.core import Element

    radii = [list(Element(symbol).ionic_radii.values()) for symbol in SYMBOLS]
    return np.array([float(np.mean(row)) if row else np.nan for row in radii])


@lru_cache(maxsize=1)
def electronegativities() -> np.ndarray:
    """On Pauling's scale, SMACT's table; NaN = none: (NUM_SPECIES,)."""
    import smact

    found = [smact.Element(symbol).pauling_eneg for symbol in SYMBOLS]
    return np.array([np.nan if value is None else float(value) for value in found])

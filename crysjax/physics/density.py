"""Density, volume per atom and packing fraction of one crystal: closed forms, differentiable in cell and occupancies.

Sites count by their occupancy. A crystal without sense, or with an element that the table lacks, is not valid.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Crystal, Estimate, Pack, sum_by_crystal
from crysjax.chemistry.element_properties import G_CM3_PER_AMU_ANGSTROM3
from crysjax.geometry import lattice as lattices
from crysjax.physics import sound

Head = Callable[[Crystal], Estimate]


def density_g_cm3(masses_amu: np.ndarray) -> Head:
    """Mass density in g/cm³, with the mass of each element (NUM_SPECIES,) in amu."""
    return _over_volume("masses_amu", masses_amu, G_CM3_PER_AMU_ANGSTROM3)


def of_pack_g_cm3(masses_amu: np.ndarray) -> Callable[[Pack], Array]:
    """The same of every crystal of a pack: (b,); an element without a mass counts nothing, an unused slot is 0."""
    weight, _ = column("masses_amu", masses_amu)

    def density(pack: Pack) -> Array:
        total = sum_by_crystal(pack.occupancy @ jnp.asarray(weight, pack.occupancy.dtype), pack)
        return G_CM3_PER_AMU_ANGSTROM3 * total / lattices.volume(pack.lattice)

    return density


def packing_fraction(radii_angstrom: np.ndarray) -> Head:
    """Volume of the spheres of all atoms over that of the cell, with a radius for each element (NUM_SPECIES,) in Å.

    The simple definition: where spheres overlap, as those of covalent radii around bonds do, their common volume
    counts for each of them, so that the fraction can exceed 1.
    """
    return _over_volume("radii_angstrom", 4 / 3 * np.pi * np.asarray(radii_angstrom, float) ** 3, 1.0)


def volume_per_atom_angstrom3(crystal: Crystal) -> Estimate:
    """Volume of the cell over the sum of its occupancies, in Å³."""
    good = sound.is_sound(crystal)
    safe = sound.harmless(crystal, good)
    return exact(lattices.volume(safe.lattice) / safe.occupancy.sum(), good)


def exact(value: Array, valid: Array) -> Estimate:
    """An estimate without uncertainty; 0 where it is not valid."""
    return Estimate(jnp.where(valid, value, 0), jnp.zeros_like(value), valid)


def column(setting: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each element with 0 for NaN, and which are known: (NUM_SPECIES,) float, bool."""
    values = np.asarray(values, float)
    if values.shape != (NUM_SPECIES,) or not np.isfinite(values).any():
        raise ValueError(
            f"{setting}: shape {values.shape}; expected ({NUM_SPECIES},), a number or NaN for each element"
        )
    return np.nan_to_num(values), np.isfinite(values)


def _over_volume(setting: str, of_element: np.ndarray, factor: float) -> Head:
    """Sum of a quantity of the elements over the volume of the cell."""
    weight, known = column(setting, of_element)

    def head(crystal: Crystal) -> Estimate:
        good = sound.is_sound(crystal)
        safe = sound.harmless(crystal, good)
        total = (safe.occupancy.sum(0) * jnp.asarray(weight, safe.occupancy.dtype)).sum()
        good &= sound.all_known(safe.occupancy, jnp.asarray(known))
        return exact(factor * total / lattices.volume(safe.lattice), good)

    return head

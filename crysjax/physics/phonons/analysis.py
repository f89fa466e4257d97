"""What people ask of phonons: bands along the usual path, density of states and harmonic thermodynamics."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Params
from crysjax.chemistry.elements import formula
from crysjax.crystallography.band_paths import BandPath, band_path
from crysjax.data.entry import Entry
from crysjax.physics.phonons import driver as phonon_driver
from crysjax.physics.phonons import thermodynamics
from crysjax.physics.phonons.driver import STABLE_THZ, Phonons
from crysjax.physics.phonons.thermodynamics import Dos, Thermal
from crysjax.physics.phonons.vibrations import PER_CM
from crysjax.potentials.mlip import Potential


class Analysis(NamedTuple):
    """The phonons of one crystal, and what is read off them."""

    phonons: Phonons
    path: BandPath
    bands: np.ndarray  # (k, 3n) THz along the path, imaginary ones negative
    density: Dos
    thermal: Thermal  # of the primitive cell
    remedies: list[dict]  # steps to lower polymorphs: energy gained, wave vector, why none was found


def analysis(
    potential: Potential,
    params: Params,
    crystal: Entry,
    kelvin: np.ndarray,
    *,
    relax: bool = True,
    remedies: int = 0,
    width_thz: float = 0.1,
    **asked: float,
) -> Analysis:
    """Phonons at temperatures (t,); `asked` goes to `phonon_driver.phonons`.

    Raises:
        ValueError: a crystal that has no phonons: not relaxed, or not computed.
    """
    entry, reason = crystal, ""
    if relax:
        entry, _, reason = phonon_driver.relaxed(potential, params, [crystal])[0]
    found = None if reason else phonon_driver.phonons(potential, params, entry, **asked)
    if found is None or not found.valid:
        raise ValueError(f"{crystal.id}: {reason if found is None else found.reason}")
    steps = []
    for _ in range(remedies):
        step = phonon_driver.remedy(potential, params, found, **asked)
        steps.append({"gain_ev_per_atom": step.gain_ev_per_atom, "q": step.q.tolist(), "reason": step.reason})
        if step.reason or not step.phonons.valid:
            break
        found = step.phonons
    path = band_path(found.crystal)
    return Analysis(
        found,
        path,
        phonon_driver.frequencies_at(found, path.q),
        density(found, width_thz),
        thermal(found, kelvin),
        steps,
    )


def density(found: Phonons, width_thz: float) -> Dos:
    """The density of states on an even grid."""
    with jax.enable_x64(True):
        given = [jnp.asarray(x) for x in (found.frequencies, found.weight)]
        grid = jnp.asarray(thermodynamics.even_grid(found.frequencies, width_thz))
        said = thermodynamics.dos(*given, grid=grid, width_thz=width_thz)
        return jax.tree.map(np.asarray, said)


def thermal(found: Phonons, kelvin: np.ndarray) -> Thermal:
    """Free energy, entropy and heat capacity at temperatures (t,)."""
    with jax.enable_x64(True):
        given = [jnp.asarray(x) for x in (found.frequencies, found.weight, kelvin)]
        return jax.tree.map(np.asarray, thermodynamics.thermal(*given))


def formula_units(numbers: np.ndarray) -> int:
    """How many formula units a cell holds."""
    return int(np.gcd.reduce(np.unique(numbers, return_counts=True)[1]))


def summary(said: Analysis) -> dict:
    """The figures of a crystal's phonons, with their units in their names."""
    found = said.phonons
    lowest = float(min(found.frequencies.min(), said.bands.min()))
    peak = thermodynamics.last_peak(said.density)
    return {
        "atoms": len(found.crystal.numbers), "supercell": list(found.cell.repeats), "products": found.products,
        "energy_ev_per_atom": found.energy_ev_per_atom, "stable": lowest > STABLE_THZ, "lowest_thz": lowest,
        "highest_thz": float(found.frequencies.max()), "last_peak_thz": peak, "last_peak_per_cm": peak * PER_CM,
        "modes_left_out": float(said.thermal.left_out), "modes_imaginary": float(said.thermal.imaginary),
        "formula": formula(found.crystal.numbers), "formula_units_per_cell": formula_units(found.crystal.numbers),
        "remedies": said.remedies,
    }  # fmt: skip

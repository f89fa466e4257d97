"""Oracles that a plan may ask about what was validated: `measure: [bulk_modulus_gpa, ...]`.

Answers stand in the notes of the ledger's validated rows, their price in `summary.json`. A new one is a row in
`MEASURES`: a function of one crystal that JAX can trace, its unit, and seconds per crystal, by order of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from crysjax.base import Oracle, Params
from crysjax.chemistry import element_properties as of_elements
from crysjax.data.datasets import Dataset
from crysjax.models import registry
from crysjax.oracles import by_potential
from crysjax.oracles.traced import traced
from crysjax.physics import density
from crysjax.potentials.mlip import Potential
from crysjax.predictors import synthesizability

EDGES_OF_AN_ATOM = 256  # room for neighbors; a crystal with more has no answer


class Asked(NamedTuple):
    """What measures are made of."""

    potential: Potential
    params: Params
    max_atoms: int

    def by(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of one crystal by the potential."""
        return function(self.potential, self.params, max_edges=EDGES_OF_AN_ATOM * self.max_atoms)


class Measure(NamedTuple):
    """How one is made."""

    function: Callable[[Asked], Callable[..., Any]]
    unit: str
    cost: float


MEASURES: Mapping[str, Measure] = {
    "energy_ev_per_atom": Measure(lambda a: a.by(by_potential.energy_ev_per_atom), "eV/atom", 1e-3),
    "pressure_gpa": Measure(lambda a: a.by(by_potential.pressure_gpa), "GPa", 2e-3),
    "bulk_modulus_gpa": Measure(lambda a: a.by(by_potential.bulk_modulus_gpa), "GPa", 0.1),
    "density_g_cm3": Measure(lambda a: density.density_g_cm3(of_elements.masses_amu()), "g/cm³", 1e-5),
    "packing_fraction": Measure(lambda a: density.packing_fraction(of_elements.covalent_radii_angstrom()), "", 1e-5),
    "volume_per_atom_angstrom3": Measure(lambda a: density.volume_per_atom_angstrom3, "Å³/atom", 1e-5),
}
"""What `measure` may hold, beside `synthesizability_score`."""

NAMES = (*MEASURES, synthesizability.SCORE)


def made(names: Sequence[str], asked: Asked) -> dict[str, Oracle]:
    """The oracles of these names."""
    return {name: _made(name, asked) for name in names}


def _made(name: str, asked: Asked) -> Oracle:
    if name == synthesizability.SCORE:
        return registry.load_synthesizability("synthesizability")
    function, unit, cost = MEASURES[name]
    return traced(function(asked), name=name, unit=unit, cost=cost)


def ask(oracles: Mapping[str, Oracle], crystals: Dataset, slots: int) -> dict[str, np.ndarray]:
    """What each says of every crystal: (m,), NaN where it has no answer."""
    if not len(crystals):
        return {}
    found = {}
    for name, oracle in oracles.items():
        said = synthesizability.ask(oracle, crystals, together=min(len(crystals), 8), slots=slots)
        found[name] = np.where(said.valid, said.value, np.nan)
    return found

"""Traced oracles by an interatomic potential: functions of one crystal as it stands, for `oracles.traced`.

    oracle = traced(bulk_modulus_gpa(potential, params, max_edges=2048), name="bulk_modulus_gpa", unit="GPa", cost=1.0)

The radius graph is made inside the program; a crystal that needs more edges or cell images than it has room for is not
valid, and says so by that. Relax crystals first where the answer is one of the relaxed crystal.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import GPA_PER_EV_A3, Crystal, Estimate, Pack, Params, num_sites
from crysjax.data import batching
from crysjax.geometry.neighbors import Graph, radius_graph
from crysjax.physics.elasticity.driver import SKIN_ANGSTROM, stiffness
from crysjax.physics.elasticity.mechanics import moduli
from crysjax.potentials.mlip import Potential

Answer = Callable[[Pack, Graph], tuple[Array, Array]]  # a pack of one -> value (), valid ()


def energy_ev_per_atom(potential: Potential, params: Params, **room) -> Callable[[Crystal], Estimate]:
    """Energy an atom."""

    def said(pack: Pack, graph: Graph) -> tuple[Array, Array]:
        energy = potential.energy(params, pack, graph)[0]
        return energy / jnp.maximum(num_sites(pack)[0], 1), jnp.isfinite(energy)

    return _of_one(potential, said, **room)


def pressure_gpa(potential: Potential, params: Params, **room) -> Callable[[Crystal], Estimate]:
    """Minus a third of the trace of the stress; positive where the crystal wants to expand."""

    def said(pack: Pack, graph: Graph) -> tuple[Array, Array]:
        energy, _, stress = potential.energy_forces_stress(params, pack, graph)
        return -GPA_PER_EV_A3 * jnp.trace(stress[0]) / 3, jnp.isfinite(energy[0])

    return _of_one(potential, said, **room)


def bulk_modulus_gpa(potential: Potential, params: Params, **room) -> Callable[[Crystal], Estimate]:
    """Voigt, Reuss and Hill's bulk modulus with relaxed ions, by second derivatives; of a stable crystal alone."""

    def said(pack: Pack, graph: Graph) -> tuple[Array, Array]:
        found = stiffness(potential.energy, params, pack, graph, slots=len(pack.frac))
        known = jax.vmap(moduli)(found.tensor)
        return known.bulk[0], found.valid[0]

    return _of_one(potential, said, **room)


def _of_one(
    potential: Potential, said: Answer, *, max_edges: int, max_images: tuple[int, int, int] | int = 2
) -> Callable[[Crystal], Estimate]:
    def one(crystal: Crystal) -> Estimate:
        pack = batching.pack_one(crystal)
        reach = potential.cutoff_angstrom + SKIN_ANGSTROM
        graph = radius_graph(pack, reach, max_edges=max_edges, max_images=max_images)
        value, valid = said(pack, graph)
        valid &= ~graph.overflow[0]
        value = jnp.where(valid, value, 0)
        return Estimate(value, jnp.zeros_like(value), valid)

    return one

"""Committees of one potential: the mean of their answers, and how far they are apart, which tells what is not known.

Seung et al., COLT 1992 (query by committee), as Behler (J. Phys. Condens. Matter 26, 183001 (2014)) uses it for
potentials. The mean is a potential itself: it relaxes crystals, runs in ASE and is differentiated like one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Estimate, Pack, Params, num_sites, site_mask
from crysjax.data.datasets import ENERGY, Dataset
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.label import label
from crysjax.potentials.mlip import Potential


class Deviations(NamedTuple):
    """Standard deviations over members, from `k - 1`: those of a vector or a tensor are of the whole of it."""

    energy: Estimate  # (b,) eV per atom
    forces: Array  # (n,) eV/Å, root of the sum of the variances of the components
    stress: Array  # (b,) eV/Å³, likewise


class Ensemble(NamedTuple):
    """What a `Potential` has, of the mean of its members, and their spread. Leaves of its parameters are (k, ...)."""

    init: Callable[[Array], Params]
    energy: Callable[[Params, Pack, Graph], Array]
    energy_forces_stress: Callable[[Params, Pack, Graph], tuple[Array, Array, Array]]
    spread: Callable[[Params, Pack, Graph], Deviations]
    cutoff_angstrom: float
    numbers: tuple[int, ...]


def ensemble(
    potential: Potential,
    *,
    members: int = 4,
    together: int = 1,
    spread_factors: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Ensemble:
    """`members` potentials of one kind as one; `stack` makes their parameters of those of each.

    `together` members are computed at once: on a CPU one by one is as fast as all; all fill an accelerator.
    `spread_factors` calibrate the standard deviations of energy, forces and stress
    (`predictors.calibration.fit_spread` on held-out data). A crystal that no member can compute has NaN energy, zero
    forces and zero stress as it has from each, and a spread that is not valid.
    """
    if members < 2:
        raise ValueError(f"ensemble: members is {members}; a spread needs at least 2")
    if len(spread_factors) != 3 or not all(f > 0 for f in spread_factors):
        raise ValueError(f"ensemble: spread_factors is {list(spread_factors)}; expected three positive numbers")
    at_once = together if together > 1 else None

    def each(said: Callable, params: Params, pack: Pack, graph: Graph) -> Array | tuple[Array, ...]:
        if {len(leaf) for leaf in jax.tree.leaves(params)} != {members}:
            raise ValueError(f"ensemble: parameters are not stacked; expected {members} of each")
        return jax.lax.map(lambda p: said(p, pack, graph), params, batch_size=at_once)

    def energy(params: Params, pack: Pack, graph: Graph) -> Array:
        return each(potential.energy, params, pack, graph).mean(0)

    def energy_forces_stress(params: Params, pack: Pack, graph: Graph) -> tuple[Array, Array, Array]:
        return tuple(x.mean(0) for x in each(potential.energy_forces_stress, params, pack, graph))

    def spread(params: Params, pack: Pack, graph: Graph) -> Deviations:
        energy, forces, stress = each(potential.energy_forces_stress, params, pack, graph)
        an_atom = energy / jnp.maximum(num_sites(pack), 1)[None]
        valid = jnp.isfinite(an_atom).all(0) & (num_sites(pack) > 0)
        an_atom = jnp.where(valid[None], an_atom, 0)
        of_energy, of_forces, of_stress = spread_factors
        estimate = Estimate(an_atom.mean(0), of_energy * _deviation(an_atom[..., None]), valid)
        forces = of_forces * _deviation(forces) * site_mask(pack.occupancy)
        return Deviations(estimate, forces, of_stress * _deviation(stress.reshape(*stress.shape[:2], 9)))

    def init(key: Array) -> Params:
        return jax.vmap(potential.init)(jax.random.split(key, members))

    return Ensemble(init, energy, energy_forces_stress, spread, potential.cutoff_angstrom, potential.numbers)


def stack(params: Sequence[Params]) -> Params:
    """Parameters of an ensemble from those of its members: every leaf gets a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


def member(params: Params, k: int) -> Params:
    """The parameters of one member."""
    return jax.tree.map(lambda leaf: leaf[k], params)


def _deviation(values: Array) -> Array:
    """Root of the summed variances, without a slope where all members agree: (k, m, c) -> (m,)."""
    variance = values.var(0, ddof=1).sum(-1)
    apart = variance > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, variance, 1)), 0)


def apart(crystals: Dataset, many: Ensemble, params: Params) -> np.ndarray:
    """How far the members are apart on every crystal of a data set: standard deviations (m,), eV per atom, NaN = none.

    `label` asks whatever answers as a potential does; what is asked here is the deviation of the energies.
    """

    def deviation(params: Params, pack: Pack, graph: Graph) -> tuple[Array, Array, Array]:
        said = many.spread(params, pack, graph)
        total = jnp.where(said.energy.valid, said.energy.std * num_sites(pack), jnp.nan)
        return total, jnp.zeros_like(pack.frac), jnp.zeros_like(pack.lattice)

    return label(crystals, many._replace(energy_forces_stress=deviation), params).properties[ENERGY]

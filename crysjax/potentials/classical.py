"""Lennard-Jones and Morse: pair potentials whose answers are known, for tests, first steps and simple crystals."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.pair import (
    as_params,
    edge_lengths,
    halved,
    in_dtype,
    listed_pairs,
    pair_fade,
    pair_weights,
)


def lennard_jones(
    *,
    numbers: tuple[int, ...],
    epsilon_ev: float = 0.0104,
    sigma_angstrom: float = 3.4,
    cutoff_angstrom: float = 8.5,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`, of `4 epsilon ((sigma/r)^12 - (sigma/r)^6)` between any two atoms.

    Faded to zero over the last tenth of the cutoff. The defaults are argon; all elements interact alike. Empty
    parameters stand for those of the settings.

    Args:
        numbers: atomic numbers of the elements that the potential is for.
        epsilon_ev: depth of the well, eV.
        sigma_angstrom: distance at which the energy of a pair is zero, Å.
        cutoff_angstrom: distance from which on the energy of a pair is zero, Å.
    """
    settings = {"epsilon_ev": epsilon_ev, "sigma_angstrom": sigma_angstrom}

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        p, r2 = in_dtype(params or settings, vectors.dtype), (vectors**2).sum(-1)
        sixth = (p["sigma_angstrom"] ** 2 / r2) ** 3
        pair = 4 * p["epsilon_ev"] * (sixth**2 - sixth) * pair_fade(jnp.sqrt(r2) / cutoff_angstrom)
        return halved(pair, graph, len(occupancy))

    return lambda key: as_params(settings), site_energies


def morse(
    *, numbers: tuple[int, ...], pairs: tuple[tuple[float, ...], ...], cutoff_angstrom: float = 8.0
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`, of `depth (exp(-2 s (r - r0)) - 2 exp(-s (r - r0)))`.

    Morse, Phys. Rev. 34, 57 (1929). Faded to zero over the last tenth of the cutoff.

    Args:
        numbers: atomic numbers of the elements that the potential is for.
        pairs: one row per pair of elements, `(z1, z2, depth in eV, s in 1/Å, r0 in Å)` with atomic numbers z1 and z2;
            pairs of elements that are not listed do not interact.
        cutoff_angstrom: distance from which on the energy of a pair is zero, Å.
    """
    ends, settings = listed_pairs(pairs, numbers, ("depth_ev", "slope_per_angstrom", "length_angstrom"))

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        p, r = in_dtype(params, vectors.dtype), edge_lengths(vectors)
        x = jnp.exp(-p["slope_per_angstrom"][None] * (r[:, None] - p["length_angstrom"][None]))
        pair = pair_weights(occupancy, graph, ends) * p["depth_ev"][None] * (x**2 - 2 * x)
        return halved(pair.sum(-1) * pair_fade(r / cutoff_angstrom), graph, len(occupancy))

    return lambda key: as_params(settings), site_energies

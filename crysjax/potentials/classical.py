"""Lennard-Jones: the potential whose answers are known, for tests and first steps."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph


def lennard_jones(
    *,
    numbers: tuple[int, ...],
    epsilon_ev: float = 0.0104,
    sigma_angstrom: float = 3.4,
    cutoff_angstrom: float = 8.5,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`, of `4 epsilon ((sigma/r)^12 - (sigma/r)^6)` between any two atoms.

    Faded to zero over the last tenth of the cutoff. The defaults are argon; the elements `numbers` are all alike. It
    has no parameters: `init` gives an empty tuple.
    """

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        r2 = (vectors**2).sum(-1)
        fade = pair_fade(jnp.sqrt(r2) / cutoff_angstrom)
        sixth = (sigma_angstrom**2 / r2) ** 3
        pair = 2 * epsilon_ev * (sixth**2 - sixth) * fade * graph.mask  # half to each end
        return jax.ops.segment_sum(pair, graph.receiver, len(occupancy))

    return lambda key: (), site_energies


def pair_fade(x: Array) -> Array:
    """1 up to 0.9, 0 from 1, with continuous second derivatives between."""
    t = jnp.clip((1 - x) / 0.1, 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)

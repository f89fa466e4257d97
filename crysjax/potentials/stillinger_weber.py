"""Stillinger-Weber: silicon and other tetrahedral crystals by pairs and the angles between them.

Stillinger and Weber, Phys. Rev. B 31, 5262 (1985), equations 2.3 to 2.6. Their sum over pairs of neighbors factorizes:
with h_j = exp(gamma sigma / (r_j - a sigma)) and unit vectors u_j,

    sum_jk h_j h_k (u_j . u_k + 1/3)^2 = |sum h u u^T|^2 + 2/3 |sum h u|^2 + 1/9 (sum h)^2,

so that the energy costs as much as that of a pair potential.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.pair import as_params, edge_lengths, halved, in_dtype


def stillinger_weber(
    *,
    numbers: tuple[int, ...],
    epsilon_ev: float = 2.1683,
    sigma_angstrom: float = 2.0951,
    pair_strength: float = 7.049556277,
    pair_repulsion: float = 0.6022245584,
    angle_strength: float = 21.0,
    angle_decay: float = 1.2,
    cutoff_angstrom: float = 3.77118,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`; the defaults are silicon. The paper's p is 4 and its q is 0.

    Args:
        numbers: atomic numbers of the elements that the potential is for; all of them interact alike.
        epsilon_ev: the paper's epsilon, the unit of energy, eV.
        sigma_angstrom: the paper's sigma, the unit of length, Å.
        pair_strength: the paper's A, strength of the pair energies in units of epsilon.
        pair_repulsion: the paper's B, strength of their repulsion relative to their attraction.
        angle_strength: the paper's lambda, strength of the energies of angles in units of epsilon.
        angle_decay: the paper's gamma, how fast these fall towards the cutoff, in units of sigma.
        cutoff_angstrom: the paper's a sigma (a = 1.8), where all derivatives vanish, Å; it does not move with the
            parameter sigma.
    """
    settings = {
        "epsilon_ev": epsilon_ev,
        "sigma_angstrom": sigma_angstrom,
        "pair_strength": pair_strength,
        "pair_repulsion": pair_repulsion,
        "angle_strength": angle_strength,
        "angle_decay": angle_decay,
    }

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        p, r, sites = in_dtype(params, vectors.dtype), edge_lengths(vectors), len(occupancy)
        fourth = (p["sigma_angstrom"] / r) ** 4
        pair = p["pair_strength"] * (p["pair_repulsion"] * fourth - 1) * _fall(p["sigma_angstrom"], r)
        h = _fall(p["angle_decay"] * p["sigma_angstrom"], r) * graph.mask
        angles = _angles(h, vectors / r[:, None], graph.receiver, sites)
        return p["epsilon_ev"] * (halved(pair, graph, sites) + p["angle_strength"] / 2 * angles)

    def _fall(length: Array, r: Array) -> Array:
        """exp(length / (r - cutoff)) within the cutoff, 0 beyond, where no division happens either."""
        inside = r < cutoff_angstrom
        return jnp.where(inside, jnp.exp(length / jnp.where(inside, r - cutoff_angstrom, -1)), 0)

    return lambda key: as_params(settings), site_energies


def _angles(h: Array, unit: Array, receiver: Array, sites: int) -> Array:
    """Sum of h_j h_k (cos + 1/3)^2 over j and k, different neighbors in either order: (e,), (e, 3) -> (n,)."""
    terms = [h[:, None], h[:, None] * unit, (h[:, None, None] * unit[:, :, None] * unit[:, None, :]).reshape(-1, 9)]
    sums = jax.ops.segment_sum(jnp.concatenate([*terms, (h**2)[:, None]], -1), receiver, sites)
    scalar, vector, tensor, itself = sums[:, 0], sums[:, 1:4], sums[:, 4:13], sums[:, 13]
    return (tensor**2).sum(-1) + 2 / 3 * (vector**2).sum(-1) + scalar**2 / 9 - 16 / 9 * itself

"""Gates for use inside `jit`: which of a pack's crystals are worth a prediction, and why not.

A gate answers a number of its own for each crystal and compares it with a bound, so that a ledger can say by how much
a candidate failed. The composition gate is `validity.smact_valid`, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, num_sites, site_mask, sum_by_crystal
from crysjax.evaluation.validity import IMAGES, MIN_DISTANCE_ANGSTROM, oxidation_table
from crysjax.geometry import lattice as lattices


class Gated(NamedTuple):
    """What the gates found, a row a crystal."""

    distance_angstrom: Array  # (b,) the shortest distance, periodic images of a site itself included
    closeness: Array  # (b,) the shortest distance over the sum of the two covalent radii
    volume_per_atom: Array  # (b,) Å^3
    apart: Array  # (b,) bool
    dense: Array  # (b,) bool: neither a gas nor a collapse
    neutral: Array  # (b,) bool: SMACT's test
    passed: Array  # (b,) bool: all of them


REASONS = ("apart", "dense", "neutral")
SAID = {
    "apart": "sites too close",
    "dense": "volume per atom out of range",
    "neutral": "composition fails SMACT's charge and electronegativity test",
}


def gates(
    *,
    max_atoms: int,
    min_closeness: float = 0.6,
    min_volume_per_atom: float = 4.0,
    max_volume_per_atom: float = 80.0,
) -> Callable[[Pack], Gated]:
    """All gates as one function of a pack.

    Args:
        max_atoms: of the largest crystal.
        min_closeness: shortest distance over the sum of covalent radii; 0.5 Å is asked for in any case.
        min_volume_per_atom, max_volume_per_atom: in Å^3.
    """
    from ase.data import covalent_radii

    radii = jnp.asarray(covalent_radii[1 : NUM_SPECIES + 1], jnp.float32)
    neutral_one = smact_gate(max_atoms=max_atoms)

    def gate(pack: Pack) -> Gated:
        distance, closeness = shortest(pack, pack.occupancy @ radii)
        volume = lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1)
        used = (num_sites(pack) > 0) & _finite(pack)
        apart = (distance >= MIN_DISTANCE_ANGSTROM) & (closeness >= min_closeness) & used
        dense = (volume >= min_volume_per_atom) & (volume <= max_volume_per_atom) & used
        neutral = jax.vmap(neutral_one)(sum_by_crystal(pack.occupancy, pack)) & used
        return Gated(distance, closeness, volume, apart, dense, neutral, apart & dense & neutral)

    return gate


def _finite(pack: Pack) -> Array:
    """Whether all of a crystal's numbers are finite: (b,). Minima do not tell, XLA's may ignore NaN on a CPU."""
    broken = (~jnp.isfinite(pack.frac).all(-1)).astype(jnp.float32)
    sites = jax.ops.segment_sum(broken, pack.owner, pack.lattice.shape[0])
    return (sites == 0) & jnp.isfinite(pack.lattice).all((1, 2))


def shortest(pack: Pack, radius: Array) -> tuple[Array, Array]:
    """Shortest distance in Å, and over the sum of the radii (n,), of each crystal: (b,) twice.

    Over the 27 nearest cells, with a site's own images; infinite for an unused slot, undefined where not finite.
    """
    images = jnp.asarray(IMAGES, pack.frac.dtype)
    own = jnp.asarray(IMAGES[IMAGES.any(-1)], pack.frac.dtype)
    i, j = pack.pairs[:, 0], pack.pairs[:, 1]
    difference = pack.frac[i] - pack.frac[j]
    difference = difference - jnp.round(difference)
    of_pair = _least(difference[:, None, :] + images[None], pack.lattice[pack.owner[i]])
    of_pair = jnp.where(pack.pair_mask > 0, of_pair, jnp.inf)
    of_site = jax.vmap(lambda cell: jnp.sqrt(jnp.square(own @ cell).sum(-1).min()))(pack.lattice)[pack.owner]
    of_site = jnp.where(site_mask(pack.occupancy) > 0, of_site, jnp.inf)
    distance = jnp.concatenate([of_pair, of_site])
    total = jnp.concatenate([radius[i] + radius[j], 2 * radius])
    owner, crystals = jnp.concatenate([pack.owner[i], pack.owner]), pack.lattice.shape[0]
    ratio = jnp.where(jnp.isinf(distance), jnp.inf, distance / jnp.maximum(total, 1e-3))
    return jax.ops.segment_min(distance, owner, crystals), jax.ops.segment_min(ratio, owner, crystals)


def _least(shifted: Array, lattice: Array) -> Array:
    """Length in Å of the shortest of several fractional vectors: (p, m, 3), (p, 3, 3) -> (p,)."""
    return jnp.sqrt(jnp.square(jnp.einsum("pmi,pij->pmj", shifted, lattice)).sum(-1).min(-1))


def smact_gate(*, max_atoms: int, max_elements: int = 8) -> Callable[[Array], Array]:
    """The same test for use inside `jit`: atom counts (NUM_SPECIES,) float -> bool.

    A composition of more than `max_elements` elements or `max_atoms` atoms, or of no atom, fails.
    """
    table = oxidation_table()
    states, known, metal = jnp.asarray(table.states), jnp.asarray(table.known), jnp.asarray(table.metal)
    scale = jnp.asarray(np.nan_to_num(table.electronegativity, nan=-1.0))
    span = int(np.abs(table.states).max()) * max_atoms
    charge = jnp.arange(-span, span + 1)

    def gate(counts: Array) -> Array:
        count, row = jax.lax.top_k(jnp.round(counts).astype(jnp.int32), max_elements)
        used = count > 0
        shift = count[:, None] * states[row]

        def add(reach: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
            shifts, allowed, present = item
            source = charge[None, :] - shifts[:, None] + span
            inside = (source >= 0) & (source <= 2 * span) & allowed[:, None]
            moved = (reach[jnp.clip(source, 0, 2 * span)] & inside).any(0)
            return jnp.where(present, moved, reach), None

        def neutral(cut: Array) -> Array:
            up = (scale[row] <= cut)[:, None]
            sign = jnp.where(up, states[row] >= 0, states[row] <= 0)
            reach, _ = jax.lax.scan(add, charge == 0, (shift, known[row] & sign, used))
            return reach[span]

        balanced = jax.vmap(neutral)(scale[row]) & used
        compound = balanced.any() & (~used | (scale[row] >= 0)).all()
        fits = (count.sum() <= max_atoms) & (jnp.round(counts).sum() == count.sum().astype(counts.dtype)) & used.any()
        return fits & ((used.sum() == 1) | (~used | metal[row]).all() | compound)

    return gate

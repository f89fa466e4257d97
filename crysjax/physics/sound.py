"""Which crystals can be asked about, by the limits of `geometry.soundness`, and what stands in for the others inside
`jit`, so that no NaN is ever computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import UNKNOWN, Crystal, one_hot, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.geometry.soundness import LEAST_VOLUME_ANGSTROM3


def is_sound(crystal: Crystal) -> Array:
    """Whether all numbers of a crystal are finite, its cell has a volume, and there are atoms in it: () bool.

    Occupancies are not negative; positions of empty slots are not looked at.
    """
    used = site_mask(crystal.occupancy) > 0
    placed = (jnp.isfinite(crystal.frac).all(-1) | ~used).all()
    whole = jnp.isfinite(crystal.lattice).all() & jnp.isfinite(crystal.occupancy).all()
    roomy = lattices.volume(crystal.lattice) >= LEAST_VOLUME_ANGSTROM3
    return whole & placed & roomy & used.any() & (crystal.occupancy >= 0).all()


def all_known(occupancy: Array, known: Array) -> Array:
    """Whether all elements of the sites (n, s) are among the `known` (s,) bool, and no site is any element: () bool."""
    any_element = (occupancy > 0).all(-1) & (occupancy.max(-1) <= 1.5 * UNKNOWN)
    return ~any_element.any() & ~((occupancy > 0) & ~known[None, :]).any()


def harmless(crystal: Crystal, sound: Array) -> Crystal:
    """The crystal where it is `sound` () bool; else one atom of carbon in a cube of 5 Å. No gradient flows then."""
    slots, dtype = crystal.frac.shape[0], crystal.lattice.dtype
    numbers = jnp.zeros(slots, jnp.int32).at[0].set(6)
    cube = Crystal(one_hot(numbers, crystal.occupancy.dtype), jnp.zeros_like(crystal.frac), 5 * jnp.eye(3, dtype=dtype))
    return jax.tree.map(lambda given, other: jnp.where(sound, given, other), crystal, cube)

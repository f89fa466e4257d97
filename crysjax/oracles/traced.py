"""A traced property of one crystal as an oracle: compiled once, a batch at a time, every row by itself.

    oracle = traced(density_g_cm3(masses_amu()), name="density_g_cm3", unit="g/cm^3", cost=1e-5)
    answers = oracle.batch(crystals)  # a stacked `Crystal` -> `Estimate` of (m,)

Crystals that are none (numbers that are not finite, no volume, no atoms) never reach the function: a harmless one
stands in, its answer is not valid, and no NaN, gradient or overflow of one row is ever seen by another.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Crystal, Estimate, Oracle
from crysjax.physics import sound


def traced(fn: Callable[[Crystal], Estimate], *, name: str, unit: str, cost: float) -> Oracle:
    """An oracle of `fn`, which answers for one crystal and can be traced by JAX.

    Args:
        name, unit: what it is, with the unit in the name where it has one.
        cost: seconds per crystal, order of magnitude.

    An answer that is not finite is not valid, and 0. `batch` can be differentiated itself: `jax.grad` of a sum of
    values has the gradient of each crystal in its row, zeros where it is not valid.

    Raises:
        ValueError: no name, a cost that is none, or crystals that are not stacked.
    """
    if not name or not cost > 0:
        raise ValueError(f"traced: name {name!r}, cost {cost}; expected a name and seconds above 0")
    rows = jax.jit(jax.vmap(isolated(fn)))

    def batch(crystals: Crystal) -> Estimate:
        if crystals.lattice.ndim != 3 or crystals.occupancy.ndim != 3:
            raise ValueError(f"{name}: lattice of shape {crystals.lattice.shape}; expected stacked crystals (m, 3, 3)")
        return rows(crystals)

    return Oracle(name, unit, float(cost), batch)


def isolated(fn: Callable[[Crystal], Estimate]) -> Callable[[Crystal], Estimate]:
    """`fn` that is never shown a broken crystal and never answers what is not finite."""

    def one(crystal: Crystal) -> Estimate:
        good = sound.is_sound(crystal)
        said = fn(sound.harmless(crystal, good))
        valid = said.valid & good & _finite(said.value, said.valid) & _finite(said.std, said.valid)
        keep = jnp.expand_dims(valid, tuple(range(valid.ndim, said.value.ndim)))
        return Estimate(jnp.where(keep, said.value, 0), jnp.where(keep, said.std, 0), valid)

    return one


def _finite(numbers: Array, like: Array) -> Array:
    """Whether all numbers behind each entry of `like` are finite."""
    return jnp.isfinite(numbers).all(tuple(range(like.ndim, numbers.ndim)))

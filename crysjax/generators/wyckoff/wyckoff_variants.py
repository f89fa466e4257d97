"""What a crystal teaches besides itself: its structure with other elements and a cell of their size, and small shifts.

A transformer over orbits can learn 15,000 crystals by heart, coordinates to the last digit. A training crystal is
therefore shown with its elements exchanged for similar ones in a share of the cases (`generators.exchange`: charges
that add up still do), as known structures are with elements that they were never seen with, and with free coordinates,
lengths and angles that are off by as little as those of two relaxations of one structure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, UNKNOWN, Orbits, Pack, one_hot, site_mask
from crysjax.generators import exchange
from crysjax.geometry.symmetry import table
from crysjax.retrieval.templates import element_distance, spheres


class Variants(NamedTuple):
    """How much a training crystal is varied, see `wyckoff`."""

    exchange: float
    sharpness: float
    jitter: float


def varied(key: Array, pack: Pack, orbits: Orbits, how: Variants) -> tuple[Pack, Orbits, Array]:
    """The pack and its orbits, leaves (b, ...), as they are shown; and which crystals have other elements (b,) bool.

    The pack carries the species alone; its positions and cells are those of the crystals as they were.
    """
    first, second, third = jax.random.split(key, 3)
    chosen = jax.random.uniform(first, orbits.group.shape) < how.exchange
    pack, orbits, chosen = _exchanged(second, pack, orbits, chosen, how.sharpness)
    return pack, _shifted(third, orbits, how.jitter), chosen


def _exchanged(key: Array, pack: Pack, orbits: Orbits, chosen: Array, sharpness: float) -> tuple[Pack, Orbits, Array]:
    """Similar elements in the chosen crystals, their cells scaled by the volume of the spheres."""
    dtype, real = pack.frac.dtype, site_mask(pack.occupancy) > 0
    was = jnp.where(real, jnp.argmax(pack.occupancy, -1) + 1, 0)
    free = pack._replace(
        occupancy=jnp.where(real[:, None], jnp.asarray(UNKNOWN, dtype), jnp.zeros_like(pack.occupancy))
    )
    of = exchange.kinds(was, free)
    new = exchange.exchanged(key, of, -sharpness * jnp.asarray(_apart(), dtype))
    fits = (
        of.number[pack.owner, of.of_site] == was
    ) | ~real  # a crystal with more kinds than there is room for does not
    chosen = chosen & (jax.ops.segment_min(fits.astype(jnp.int32), pack.owner, len(pack.lattice)) > 0)
    new = jnp.where(chosen[:, None], new, of.number)
    sites = jnp.where(real, new[pack.owner, of.of_site], 0)
    same = (orbits.number[..., None] == of.number[:, None]) & (orbits.number > 0)[..., None]
    number = jnp.where(same, new[:, None], 0).sum(-1).astype(orbits.number.dtype)
    volume = jnp.concatenate([jnp.zeros(1, dtype), jnp.asarray(spheres(), dtype)])
    before, after = ((volume[z] * of.count).sum(-1) for z in (of.number, new))
    scale = jnp.where(chosen & (before > 0), jnp.cbrt(after / jnp.where(before > 0, before, 1)), 1)
    grown = orbits.lattice * jnp.concatenate([jnp.tile(scale[:, None], (1, 3)), jnp.ones((len(scale), 3), dtype)], -1)
    moved = orbits._replace(number=jnp.where(chosen[:, None], number, orbits.number), lattice=grown.astype(dtype))
    return pack._replace(occupancy=one_hot(sites, dtype)), _in_order(moved), chosen


def _in_order(orbits: Orbits) -> Orbits:
    """Letters ascending, and atomic numbers within a letter: the order in which orbits are drawn."""
    rank = jnp.where(orbits.number > 0, orbits.letter * (NUM_SPECIES + 1) + orbits.number, jnp.iinfo(jnp.int32).max)
    order = jnp.argsort(rank, -1, stable=True)
    parts = {name: jnp.take_along_axis(getattr(orbits, name), order, -1) for name in ("letter", "number")}
    return orbits._replace(**parts, u=jnp.take_along_axis(orbits.u, order[..., None], 1))


def _shifted(key: Array, orbits: Orbits, jitter: float) -> Orbits:
    """Free coordinates off by `jitter` (standard deviation, in cell lengths), lengths by as much of themselves."""
    first, second = jax.random.split(key)
    free = jnp.asarray(table().free)[orbits.group[:, None], orbits.letter] & (orbits.number > 0)[..., None]
    u = orbits.u + jitter * jnp.where(free, jax.random.normal(first, orbits.u.shape, orbits.u.dtype), 0)
    off = jitter * jax.random.normal(second, orbits.lattice.shape, orbits.lattice.dtype)
    lengths, angles = orbits.lattice[:, :3] * jnp.exp(off[:, :3]), orbits.lattice[:, 3:] + jnp.rad2deg(off[:, 3:])
    return orbits._replace(u=u % 1.0, lattice=jnp.concatenate([lengths, angles], -1))


@lru_cache(maxsize=1)
def _apart() -> np.ndarray:
    """Distance of the elements in Mendeleev number, electronegativity and radius, in standard deviations: (s, s)."""
    return np.sqrt(element_distance())

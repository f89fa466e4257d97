"""What every generator family does alike: crystals as plain coordinates, and everything known as one context vector.

A pack becomes fractional positions, six standardized rotation-free lattice coordinates (`geometry.lattice`) and species
rows; a condition and a time become the context that networks read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import UNKNOWN, Condition, Pack, PyTree, num_sites, site_mask
from crysjax.geometry import lattice as lattices

SPACE_GROUPS = 231  # 0 = not given
TIME_FREQUENCIES = 16
LATTICE_CENTER = (0.0, 0.0, 0.0, 0.0, 0.0, 1.6)
LATTICE_SCALE = (0.2, 0.2, 0.2, 0.2, 0.2, 0.3)
"""Defaults where no data set has been measured: a cubic cell of 16 Å^3 per atom."""

Numbers = tuple[float, ...]


class Fields(NamedTuple):
    """The three fields of a pack in the coordinates that generators work in."""

    frac: Array  # (n, 3)
    lattice: Array  # (b, 6) standardized rotation-free coordinates
    species: Array  # (n, s)


class Geometry(NamedTuple):
    """What is left of the fields where the species are given, and the noise of families that draw it."""

    frac: Array  # (n, 3)
    lattice: Array  # (b, 6)


class Scales(NamedTuple):
    """Mean and standard deviation of what a family reads, measured on its training data."""

    lattice_center: Numbers = LATTICE_CENTER  # six: the lattice coordinates
    lattice_scale: Numbers = LATTICE_SCALE
    property_center: Numbers = ()  # k: the conditioning properties, in their own units
    property_scale: Numbers = ()

    def encode(self, pack: Pack) -> Fields:
        """`encode` at these scales."""
        return encode(pack, self.lattice_center, self.lattice_scale)

    def assemble(self, x: Fields, pack: Pack, limit: float | None = 6.0) -> Pack:
        """`assemble` at these scales."""
        return assemble(x, pack, self.lattice_center, self.lattice_scale, limit)

    def context(self, t: Array, condition: Condition) -> Array:
        """`context` at these scales."""
        return context(t, condition, self.property_center, self.property_scale)

    def given(self, condition: Condition, dtype=jnp.float32) -> Array:
        """`given` at these scales."""
        return given(condition, self.property_center, self.property_scale, dtype)


def sampled(noise: Callable[..., PyTree], decode: Callable[..., Pack]) -> Callable[..., Pack]:
    """`Generator.sample`: `decode` of drawn `noise`, each with a key of its own."""

    def sample(params, key: Array, template: Pack, condition: Condition) -> Pack:
        first, rest = jax.random.split(key)
        return decode(params, rest, noise(first, template), template, condition)

    return sample


def stratified_times(key: Array, crystals: int, dtype=None) -> Array:
    """A time in [0, 1) for each crystal, spread evenly over the slots: uniform draws of less variance: (b,)."""
    return (jax.random.uniform(key, (), dtype or float) + jnp.arange(crystals, dtype=dtype) / crystals) % 1


def encode(pack: Pack, lattice_center: Numbers, lattice_scale: Numbers) -> Fields:
    """The fields of a pack; the lattice part is not meant to be differentiated (`lattice.encode`)."""
    coordinates = lattices.encode(pack.lattice, num_sites(pack))
    center, scale = (jnp.asarray(np.asarray(v)[None], coordinates.dtype) for v in (lattice_center, lattice_scale))
    return Fields(pack.frac, (coordinates - center) / scale, pack.occupancy)


def assemble(x: Fields, pack: Pack, lattice_center: Numbers, lattice_scale: Numbers, limit: float | None = 6.0) -> Pack:
    """The pack of these fields, on the owner and pairs of `pack`.

    Lattice coordinates are clipped to `limit` standard deviations, so that no sampler leaves the cells that `decode`
    is exact for; `None` leaves them as they are, which a density of them needs.
    """
    dtype = x.lattice.dtype
    center, scale = (jnp.asarray(np.asarray(v)[None], dtype) for v in (lattice_center, lattice_scale))
    bounded = x.lattice if limit is None else jnp.clip(x.lattice, -limit, limit)
    lattice = lattices.decode(bounded * scale + center, num_sites(pack))
    return pack._replace(occupancy=x.species, frac=x.frac, lattice=lattice)


def time_features(t: Array) -> Array:
    """Cosines and sines of pi k t, k = 1..16, and t itself: (b,) -> (b, 33)."""
    angle = jnp.pi * t[:, None] * jnp.arange(1, TIME_FREQUENCIES + 1, dtype=t.dtype)[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), t[:, None]], -1)


def context(t: Array, condition: Condition, property_center: Numbers, property_scale: Numbers) -> Array:
    """Time, standardized properties (0 where not given), which are given, and the space group: (b,) -> (b, c)."""
    return jnp.concatenate([time_features(t), given(condition, property_center, property_scale, t.dtype)], -1)


def given(condition: Condition, property_center: Numbers, property_scale: Numbers, dtype=jnp.float32) -> Array:
    """The context of a family without a time: (b, 2 k + 231)."""
    known = jnp.isfinite(condition.properties)
    centered = condition.properties - jnp.asarray(property_center, dtype)[None]
    values = jnp.where(known, centered / jnp.asarray(property_scale, dtype)[None], 0.0)
    group = jax.nn.one_hot(condition.space_group, SPACE_GROUPS, dtype=dtype)
    return jnp.concatenate([values, known.astype(dtype), group], -1)


def drop_condition(key: Array, condition: Condition, rate: float) -> Condition:
    """Conditions as training sees them, so that a model answers without any of them, too.

    A share `rate` of the crystals loses everything together, whatever the number of conditions: that is the
    unconditional model of classifier-free guidance. Of the others each property, and the space group, is left out with
    probability `rate` on its own, but never the last that was given.
    """
    b, k = condition.properties.shape
    first, second = jax.random.split(key)
    given = jnp.concatenate([jnp.isfinite(condition.properties), condition.space_group[:, None] > 0], -1)
    keep = jax.random.uniform(first, (b, k + 1)) >= rate
    keep = jnp.where((keep & given).any(-1, keepdims=True), keep, True)
    keep = keep & (jax.random.uniform(second, (b, 1)) >= rate)
    properties = jnp.where(keep[:, :k], condition.properties, jnp.nan)
    return condition._replace(properties=properties, space_group=jnp.where(keep[:, k], condition.space_group, 0))


def nothing_asked(condition: Condition) -> Condition:
    """The same condition with nothing given."""
    properties = jnp.full_like(condition.properties, jnp.nan)
    return condition._replace(properties=properties, space_group=jnp.zeros_like(condition.space_group))


def harden(rows: Array, template: Pack) -> Array:
    """One-hot rows whose derivative is that of the soft rows (straight-through; Bengio et al. 2013)."""
    hard = jax.nn.one_hot(jnp.argmax(rows, -1), rows.shape[-1], dtype=rows.dtype)
    return hard * site_mask(template.occupancy)[:, None] + rows - jax.lax.stop_gradient(rows)


def mean_over_crystals(values: Array, pack: Pack) -> Array:
    """The mean of one number per crystal over the slots that hold one: (b,) -> ()."""
    real = (num_sites(pack) > 0).astype(values.dtype)
    return jnp.sum(jnp.where(real > 0, values, 0)) / jnp.maximum(real.sum(), 1)


def hide_species(key: Array, pack: Pack) -> Pack:
    """The pack as a template: of half of the crystals all species become unknown, of the others a random share."""
    first, second = jax.random.split(key)
    hidden = jnp.minimum(2 * jax.random.uniform(first, pack.lattice.shape[:1]), 1)
    gone = jax.random.uniform(second, pack.frac.shape[:1]) < hidden[pack.owner]
    rows = jnp.where(gone[:, None], UNKNOWN * site_mask(pack.occupancy)[:, None], pack.occupancy)
    return pack._replace(occupancy=rows)

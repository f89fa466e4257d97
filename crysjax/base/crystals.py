"""What functions of crystals are given and give back: arrays with names, and what is asked of a site or a crystal."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

NUM_SPECIES = 100
"""Width of the species axis: column `z - 1` is atomic number `z`, from H (1) to Fm (100)."""

UNKNOWN = 1.0 / NUM_SPECIES
"""Every entry of the species row of a site that may be any element."""

GPA_PER_EV_A3 = 160.21766208
"""1 eV/Å³ in GPa."""

Params = Any
PyTree = Any


class Crystal(NamedTuple):
    """One crystal; slots whose occupancy row is zero are empty."""

    occupancy: Array  # (n, s) site occupancy
    frac: Array  # (n, 3) fractional coordinates
    lattice: Array  # (3, 3) rows a, b, c in Å


class Pack(NamedTuple):
    """Up to `b` crystals with at most `n` sites and `p` pairs in all, concatenated.

    Padding sites have a zero occupancy row (and belong to the last slot); padding pairs have `pair_mask` 0; an
    unused crystal slot has no sites and the unit lattice.
    """

    occupancy: Array  # (n, s)
    frac: Array  # (n, 3)
    lattice: Array  # (b, 3, 3) in Å
    owner: Array  # (n,) int32: the crystal a site belongs to
    pairs: Array  # (p, 2) int32: every i < j within one crystal
    pair_mask: Array  # (p,) 1 for a real pair, 0 for padding


class Orbits(NamedTuple):
    """A crystal as its orbits: up to `l` of them, sorted by letter, then atomic number, then coordinates.

    Shapes are those of one crystal; in a `Condition` every leaf has an axis of `b` crystals in front.
    """

    group: Array  # () int32 space group number; 0 = this crystal is not described
    letter: Array  # (l,) int32, a = 0
    number: Array  # (l,) int32 atomic number; 0 = no more orbits
    u: Array  # (l, 3) free coordinates in [0, 1), 0 where not free
    lattice: Array  # (6,) a, b, c in Å, alpha, beta, gamma in degrees, of the conventional cell


class SymmetricSites(NamedTuple):
    """The orbits of a pack's crystals, in its order of sites; empty slots are sites of their own in P1.

    A site lies at `frac = M u + c` of the first site of its orbit, in the primitive cell of the standard setting.
    """

    group: Array  # (b,) int32
    first: Array  # (n,) int32: the first site of the orbit
    linear: Array  # (n, 3, 3) M
    offset: Array  # (n, 3) c
    solve: Array  # (n, 3, 3) the pseudo-inverse of M


class Start(NamedTuple):
    """`k` retrieved candidates of every crystal of a pack, in the pack's order of sites."""

    frac: Array  # (k, n, 3)
    lattice: Array  # (k, b, 3, 3) in Å
    was: Array  # (k, n) int32 atomic number of the template's site
    found: Array  # (k, b) 1, or 0 where there is no such candidate
    matched: Array  # (k, b) 1 where the candidate has the structure of the crystal; read in training alone


class Views(NamedTuple):
    """The crystals of a pack described once more, where a family works on it: made on the host, `None` = not given."""

    orbits: Orbits | None = None  # leaves (b, ...): what `wyckoff` learns from and scores
    sites: SymmetricSites | None = None  # leaves (n, ...): the orbits that every sample has to have
    start: Start | None = None  # leaves (k, ...): what `retrieval` sets out from


class Condition(NamedTuple):
    """What a pack of crystals is asked to be, beyond the species rows of the template itself.

    The last three fields are those of `Views`: `Condition(properties, space_group, *views)`.
    """

    properties: Array  # (b, k) in the generator's own order of names; NaN = not given
    space_group: Array  # (b,) int32, 1..230; 0 = not given
    orbits: Orbits | None = None
    sites: SymmetricSites | None = None
    start: Start | None = None


class Estimate(NamedTuple):
    """What every oracle answers. `valid=False` (with a NaN-free value) stands where others raise or return NaN."""

    value: Array
    std: Array
    valid: Array


class Prediction(NamedTuple):
    """What a backbone says of a pack. `frac` and `lattice` do not change under rotation (see `geometry.lattice`)."""

    frac: Array  # (n, 3) one fractional displacement per site
    lattice: Array  # (b, 6) a change of the six rotation-free lattice coordinates
    species: Array  # (n, s) logits
    site: Array  # (n, d) invariant features
    crystal: Array  # (b, d) invariant features, mean over sites


def site_mask(occupancy: Array) -> Array:
    """1 where a slot holds an atom (known or not), 0 where it is empty: (..., n, s) -> (..., n)."""
    return (jax.lax.stop_gradient(occupancy).sum(-1) > 0).astype(occupancy.dtype)


def one_hot(numbers: Array, dtype: Any = jnp.float32) -> Array:
    """Occupancy rows of atomic numbers; 0 gives an empty slot: (...,) int -> (..., NUM_SPECIES)."""
    return jax.nn.one_hot(numbers - 1, NUM_SPECIES, dtype=dtype)


def numbers(occupancy: Array) -> Array:
    """The likeliest atomic number of each slot, 0 for an empty one: (..., s) -> (...,) int32."""
    return jnp.where(occupancy.sum(-1) > 0, occupancy.argmax(-1) + 1, 0).astype(jnp.int32)


def sum_by_crystal(values: Array, pack: Pack) -> Array:
    """Sum of a site quantity over each crystal, padding left out: (n, ...) -> (b, ...)."""
    mask = site_mask(pack.occupancy).reshape((-1,) + (1,) * (values.ndim - 1))
    return jax.ops.segment_sum(values * mask.astype(values.dtype), pack.owner, pack.lattice.shape[0])


def num_sites(pack: Pack) -> Array:
    """Number of sites of each crystal: (b,) float; 0 for an unused slot."""
    return sum_by_crystal(jnp.ones_like(pack.frac[:, 0]), pack)


def mean_by_crystal(values: Array, pack: Pack) -> Array:
    """Mean of a site quantity over each crystal; 0 for an unused slot: (n, ...) -> (b, ...)."""
    count = jnp.maximum(num_sites(pack), 1).reshape((-1,) + (1,) * (values.ndim - 1))
    return sum_by_crystal(values, pack) / count.astype(values.dtype)


def is_known(occupancy: Array) -> Array:
    """1 where a species row names exactly one element, else 0 (unknown, restricted or empty): (..., s) -> (...)."""
    rows = jax.lax.stop_gradient(occupancy)
    return ((rows.max(-1) > 0.999 * rows.sum(-1)) & (rows.sum(-1) > 0)).astype(occupancy.dtype)

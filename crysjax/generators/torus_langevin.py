"""Langevin moves on torus x lattice, for any energy: unadjusted, and with an accept step that makes the law exact.

Both aim at p(x) ∝ exp(-E(x)), one E per crystal, and propose

    x' = x - h ∇E(x) + sqrt(2 h) ξ,   ξ ~ N(0, 1)

with fractions taken round the torus. Without an accept step the law is biased at finite h: a normal law of variance v
becomes one of v / (1 - h / (2 v)). With it (MALA; Roberts & Tweedie 1996) the law is p at any h; the proposal's density
on the torus is the wrapped normal, so that going round the circle the other way is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, sum_by_crystal
from crysjax.geometry import torus


class Point(NamedTuple):
    """Where the sampler is, or a gradient there, or (as scalars) a number for each of the two."""

    frac: Array  # (n, 3)
    lattice: Array  # (b, 6)


class ChainState(NamedTuple):
    """A point with what is known of the energy there."""

    point: Point
    energy: Array  # (b,)
    gradient: Point


Evaluate = Callable[[Point], tuple[Array, Point]]  # point -> energy (b,) and the gradient of their sum


def propose(key: Array, point: Point, gradient: Point, step: Point) -> Point:
    """One unadjusted move; `step` holds h of the fractions and of the lattice."""
    keys = jax.random.split(key)
    frac, lattice = (
        x - h * g + jnp.sqrt(2 * h) * jax.random.normal(k, x.shape, x.dtype)
        for k, x, g, h in zip(keys, point, gradient, step)
    )
    return Point(torus.wrap(frac), lattice)


def metropolis(key: Array, state: ChainState, evaluate: Evaluate, step: Point, pack: Pack) -> tuple[ChainState, Array]:
    """One move that each crystal accepts or rejects for itself; also returns who accepted, (b,) bool."""
    move, decide = jax.random.split(key)
    point = propose(move, state.point, state.gradient, step)
    there = ChainState(point, *evaluate(point))
    forth = _log_proposal(state, there.point, step, pack)
    back = _log_proposal(there, state.point, step, pack)
    ratio = state.energy - there.energy + back - forth
    accepted = jnp.log(jax.random.uniform(decide, ratio.shape, ratio.dtype)) < ratio

    def choose(new: Array, old: Array, mask: Array) -> Array:
        return jnp.where(mask.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    def of_fields(new: Point, old: Point) -> Point:
        return Point(choose(new.frac, old.frac, accepted[pack.owner]), choose(new.lattice, old.lattice, accepted))

    energy = choose(there.energy, state.energy, accepted)
    return ChainState(of_fields(there.point, state.point), energy, of_fields(there.gradient, state.gradient)), accepted


def _log_proposal(state: ChainState, to: Point, step: Point, pack: Pack) -> Array:
    """Log-density of proposing `to` from `state`, up to a constant that both directions share: (b,)."""
    off_frac, off_lattice = (y - x + h * g for y, x, g, h in zip(to, state.point, state.gradient, step))
    frac = torus.wrapped_normal_log_prob(off_frac, jnp.sqrt(2 * step.frac))
    return sum_by_crystal(frac.sum(-1), pack) - jnp.square(off_lattice).sum(-1) / (4 * step.lattice)

"""How a relaxation moves: FIRE and L-BFGS over the positions and cells of a pack, each crystal on its own.

FIRE: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), in the semi-implicit form of Guénolé et al., Comput. Mater.
Sci. 175, 109584 (2020). L-BFGS: Nocedal, Math. Comput. 35, 773 (1980), its two loops as in Nocedal & Wright, algorithm
7.4; without a line search, as ASE's `LBFGS`, every step being bounded instead. A pair of negative curvature is not
learned from and empties the memory, so that a step always goes downhill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, PyTree, sum_by_crystal


class Vector(NamedTuple):
    """A displacement, velocity or force of everything that moves."""

    sites: Array  # (n, 3) of the undeformed positions
    cells: Array  # (b, 3, 3) of the deformation times a weight


class Memory(NamedTuple):
    """What a method remembers; leaves with one row per site, and with one row per crystal."""

    sites: PyTree
    cells: PyTree


class Method(NamedTuple):
    """A descent. `shorten` cuts a step to the longest one allowed."""

    init: Callable[[Pack], Memory]
    step: Callable[[Memory, Vector, Pack, Callable[[Vector], Vector]], tuple[Vector, Memory]]


def dot(x: Vector, y: Vector, pack: Pack) -> Array:
    """Inner product in each crystal: (b,)."""
    return sum_by_crystal((x.sites * y.sites).sum(-1), pack) + (x.cells * y.cells).sum((1, 2))


def times(factor: Array, x: Vector, pack: Pack) -> Vector:
    """Scaled by one factor per crystal (b,)."""
    return Vector(factor[pack.owner, None] * x.sites, factor[:, None, None] * x.cells)


def plus(x: Vector, y: Vector) -> Vector:
    return Vector(x.sites + y.sites, x.cells + y.cells)


def _zeros(pack: Pack) -> Vector:
    return Vector(jnp.zeros_like(pack.frac), jnp.zeros_like(pack.lattice))


def fire(*, dt: float = 0.1, dt_max: float = 1.0, alpha: float = 0.1) -> Method:
    """FIRE with the papers' constants in Å and eV, unit mass; faster after five steps downhill, half as fast uphill."""

    def init(pack: Pack) -> Memory:
        b, real = len(pack.lattice), pack.lattice.dtype
        still = _zeros(pack)
        pace = (jnp.full(b, dt, real), jnp.full(b, alpha, real), jnp.zeros(b, jnp.int32))
        return Memory(still.sites, (still.cells, *pace))

    def step(memory: Memory, pull: Vector, pack: Pack, shorten: Callable) -> tuple[Vector, Memory]:
        velocity, (cells, now, mix, count) = memory
        v = Vector(velocity, cells)
        power = dot(v, pull, pack)
        now, mix, count = pace(now, mix, count, power > 0, dot(v, v, pack) == 0)
        keep = (power > 0).astype(now.dtype)  # stop where the last step went uphill
        v = plus(times(keep, v, pack), times(now, pull, pack))
        steer = mix * jnp.sqrt(dot(v, v, pack) / jnp.maximum(dot(pull, pull, pack), 1e-20))
        v = plus(times(1 - mix, v, pack), times(steer, pull, pack))
        return shorten(times(now, v, pack)), Memory(v.sites, (v.cells, now, mix, count))

    def pace(now: Array, mix: Array, count: Array, downhill: Array, at_rest: Array) -> tuple[Array, Array, Array]:
        count = jnp.where(downhill, count + 1, 0)
        faster, uphill = downhill & (count > 5), ~downhill & ~at_rest
        quick = jnp.where(faster, jnp.minimum(now * 1.1, dt_max), now)
        less = jnp.where(faster, mix * 0.99, mix)
        return jnp.where(uphill, quick * 0.5, quick), jnp.where(uphill, alpha, less), count

    return Method(init, step)


def lbfgs(*, memory: int = 8, first_stiffness: float = 70.0) -> Method:
    """L-BFGS of so many pairs; until one is known the Hessian counts as `first_stiffness` eV/Å² times the identity."""

    def init(pack: Pack) -> Memory:
        def empty(x: Array) -> tuple[Array, ...]:
            pairs = jnp.zeros((memory, *x.shape), x.dtype).swapaxes(0, 1)
            return pairs, pairs, x, x

        still = _zeros(pack)
        return Memory(empty(still.sites), empty(still.cells))

    def step(old: Memory, pull: Vector, pack: Pack, shorten: Callable) -> tuple[Vector, Memory]:
        moves, turns, last_pull, last_step = (Vector(*x) for x in zip(old.sites, old.cells))
        turn = Vector(last_pull.sites - pull.sites, last_pull.cells - pull.cells)
        curvature = dot(last_step, turn, pack)
        scale = jnp.sqrt(dot(last_step, last_step, pack) * dot(turn, turn, pack))
        upward = curvature > 1e-3 * scale  # neither rounding nor negative
        moves, turns = (_push(kept, x, upward, pack) for kept, x in ((moves, last_step), (turns, turn)))
        direction = _two_loops(moves, turns, pull, pack, 1 / first_stiffness)
        taken = shorten(direction)
        parts = [moves, turns, pull, taken]
        return taken, Memory(tuple(x.sites for x in parts), tuple(x.cells for x in parts))

    return Method(init, step)


def _push(kept: Vector, new: Vector, learned: Array, pack: Pack) -> Vector:
    """The newest pair first, the oldest forgotten; all forgotten where nothing was learned."""

    def shift(old: Array, x: Array, flag: Array) -> Array:
        moved = jnp.concatenate([x[:, None], old[:, :-1]], 1)
        return jnp.where(flag.reshape((-1,) + (1,) * (moved.ndim - 1)), moved, 0)

    return Vector(shift(kept.sites, new.sites, learned[pack.owner]), shift(kept.cells, new.cells, learned))


def _two_loops(moves: Vector, turns: Vector, pull: Vector, pack: Pack, first: float) -> Vector:
    """The inverse Hessian times the pull; pairs of zeros count for nothing."""
    pairs = [Vector(jnp.moveaxis(x.sites, 1, 0), jnp.moveaxis(x.cells, 1, 0)) for x in (moves, turns)]
    curvatures = jax.vmap(lambda s, y: dot(s, y, pack))(*pairs)  # (memory, b)
    weights = jnp.where(curvatures > 0, 1 / jnp.where(curvatures > 0, curvatures, 1), 0)

    def back(q: Vector, item: tuple) -> tuple[Vector, Array]:
        s, y, weight = item
        a = weight * dot(s, q, pack)
        return plus(q, times(-a, y, pack)), a

    q, amounts = jax.lax.scan(back, pull, (*pairs, weights))
    newest = Vector(pairs[1].sites[0], pairs[1].cells[0])
    stiffness = dot(newest, newest, pack) * weights[0]
    q = times(jnp.where(stiffness > 0, 1 / jnp.where(stiffness > 0, stiffness, 1), first), q, pack)

    def forth(r: Vector, item: tuple) -> tuple[Vector, None]:
        s, y, weight, a = item
        return plus(r, times(a - weight * dot(y, r, pack), s, pack)), None

    return jax.lax.scan(forth, q, (*pairs, weights, amounts), reverse=True)[0]


METHODS: dict[str, Callable[..., Method]] = {"fire": fire, "lbfgs": lbfgs}

"""The differential equation of a continuous flow: a Runge-Kutta solver, and the divergence of its velocity."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, num_sites, sum_by_crystal
from crysjax.generators.coordinates import Geometry

Field = Callable[[Geometry, Array], Geometry]  # (x, u) -> dx/du
TABLEAUS = {"heun": ((0.0, 1.0), (0.5, 0.5)), "rk4": ((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))}
"""Nodes and weights of methods of order 2 and 4 whose stages build on the one before alone."""


class Scored(NamedTuple):
    """A point on its way, and the integral of the divergence so far."""

    x: Geometry
    divergence: Array  # (b,)


class Solver(NamedTuple):
    """How the differential equation is solved, and the divergence along it estimated."""

    steps: int
    name: str
    blur: float  # t at the end
    divergence: str
    probes: int
    max_sites: int
    seed: int


def trace(solver: Solver, velocity: Field, x: Geometry, u: Array, pack: Pack, key: Array) -> tuple[Geometry, Array]:
    """The velocity and its divergence, (b,)."""
    at, push = jax.linearize(lambda x: velocity(x, u), x)

    def along(probe: Geometry) -> Array:
        moved = push(probe)
        return sum_by_crystal((probe.frac * moved.frac).sum(-1), pack) + (probe.lattice * moved.lattice).sum(-1)

    if solver.divergence == "exact":
        total = jax.lax.map(along, unit_probes(x, pack, solver.max_sites)).sum(0)
        return at, jnp.where(num_sites(pack) <= solver.max_sites, total, jnp.nan)
    return at, jax.lax.map(along, sign_probes(key, x, solver.probes)).mean(0)


def solve(field: Callable, x, start: float, stop: float, steps: int, solver: str):
    """dx/du = field(x, u) from `start` to `stop` in equal steps of an explicit Runge-Kutta method."""
    dtype, h = jax.tree.leaves(x)[0].dtype, (stop - start) / steps
    stages = tuple(jnp.asarray(row, dtype) for row in TABLEAUS[solver])

    def step(x, u: Array):
        def stage(state: tuple, this: tuple[Array, Array]) -> tuple:
            (slope, moved), (node, weight) = state, this
            slope = field(jax.tree.map(lambda v, s: v + h * node * s, x, slope), u + h * node)
            return (slope, jax.tree.map(lambda v, s: v + h * weight * s, moved, slope)), None

        (_, moved), _ = jax.lax.scan(stage, (jax.tree.map(jnp.zeros_like, x), x), stages)  # one copy to compile
        return moved, None

    return jax.lax.scan(jax.checkpoint(step), x, start + h * jnp.arange(steps, dtype=dtype))[0]


def unit_probes(x: Geometry, pack: Pack, max_sites: int) -> Geometry:
    """Every coordinate of a crystal once, of all crystals at the same time: (3 max_sites + 6, ...)."""
    row, m, dtype = jnp.arange(len(x.frac)), 3 * max_sites + 6, x.frac.dtype
    rank = row - jax.ops.segment_min(row, pack.owner, len(pack.lattice))[pack.owner]
    of_site = jnp.eye(m, 3 * max_sites, dtype=dtype).reshape(m, max_sites, 3)
    frac = jnp.take(of_site, rank, axis=1, mode="fill", fill_value=0)
    lattice = jnp.eye(m, 6, -3 * max_sites, dtype=dtype)[:, None]
    return Geometry(frac, jnp.broadcast_to(lattice, (m, *x.lattice.shape)))


def sign_probes(key: Array, x: Geometry, probes: int) -> Geometry:
    """Independent signs for every coordinate (Hutchinson 1989): (probes, ...)."""
    keys = jax.random.split(key, 2)
    return Geometry(*(jax.random.rademacher(k, (probes, *v.shape), v.dtype) for k, v in zip(keys, x)))

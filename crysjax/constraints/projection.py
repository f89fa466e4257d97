"""Minimum distances by projection: atoms that are too close are pushed apart, periodic images included.

A crystal is moved onto the set of those whose atoms are all at least d apart by the method of projections: every pair
that is too close asks for half of what it lacks along its line, a site takes the mean of what its violated pairs ask
(Cimmino 1938, in parallel), and so on until nothing is violated. Crystals that already keep the distance do not move.

The set may be empty for a given cell, and the method need not find a point of it. The last resort is to scale the
cell, which scales every distance alike and therefore always ends with all of them at d or more. With a fixed cell
there is no such resort: the second answer says which crystals still violate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, num_sites, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.geometry.reduction import niggli

MARGIN = 1e-4  # relative, of the distance asked for: what float32 and another program's images may differ by


def shortest_vectors(pack: Pack) -> tuple[Array, Array, Array]:
    """Of each pair the vector from j to i in Å and its length, and the shortest lattice vector of each crystal.

    (p, 3), (p,), (b,). Exact for any cell: images are counted in the Niggli cell (see `torus.minimum_image`).
    """
    reduced, change = niggli(pack.lattice)
    return _shortest(pack.frac, reduced, lattices.inverse(change), pack)


def _shortest(frac: Array, reduced: Array, inverse: Array, pack: Pack) -> tuple[Array, Array, Array]:
    i, j = pack.pairs[:, 0], pack.pairs[:, 1]
    of_pair = pack.owner[i]
    near = torus.log(jnp.einsum("pi,pij->pj", frac[i] - frac[j], inverse[of_pair]))
    images = jnp.asarray(torus.AROUND, frac.dtype)
    vectors = jnp.einsum("pmi,pij->pmj", near[:, None] + images[None], reduced[of_pair])
    squared = jnp.square(vectors).sum(-1)
    best = jnp.argmin(squared, -1)
    nearest = jnp.take_along_axis(vectors, best[:, None, None], 1)[:, 0]
    return nearest, jnp.sqrt(squared.min(-1)), jnp.linalg.norm(reduced, axis=-1).min(-1)


def least_distance(pack: Pack) -> Array:
    """Shortest distance in Å of each crystal, images of a site itself included; inf for an unused slot: (b,).

    NaN where positions or cell are not finite.
    """
    _, distance, own = shortest_vectors(pack)
    return _least(distance, own, pack)


def _least(distance: Array, own: Array, pack: Pack) -> Array:
    crystals = pack.lattice.shape[0]
    of_pair = jnp.where(pack.pair_mask > 0, distance, jnp.inf)
    least = jnp.minimum(jax.ops.segment_min(of_pair, pack.owner[pack.pairs[:, 0]], crystals), own)
    broken = jax.ops.segment_sum((~jnp.isfinite(pack.frac).all(-1)).astype(jnp.int32), pack.owner, crystals) > 0
    least = jnp.where(broken | ~jnp.isfinite(pack.lattice).all((1, 2)), jnp.nan, least)
    return jnp.where(num_sites(pack) > 0, least, jnp.inf)


def separate(
    pack: Pack,
    distance_angstrom: float,
    *,
    fixed: Array | None = None,
    fixed_cell: bool = False,
    steps: int = 200,
    largest_scale: float = 1e3,
) -> tuple[Pack, Array]:
    """The pack with all atoms at least `distance_angstrom` apart, and whether each crystal now keeps it: (b,) bool.

    Args:
        fixed: (n,) bool, sites that must not move; they keep their fractions bit for bit.
        fixed_cell: leave the cells as they are; crystals that cannot be projected are then answered as False.
        steps: projections at most; the whole pack stops when every crystal is done.
        largest_scale: of the last resort; beyond it (two fixed atoms in one place) the answer is False.

    Not meant to be differentiated.
    """
    pack = jax.lax.stop_gradient(pack)
    reduced, change = niggli(pack.lattice)
    inverse = lattices.inverse(change)
    moves = site_mask(pack.occupancy) > 0 if fixed is None else (site_mask(pack.occupancy) > 0) & ~fixed
    goal = distance_angstrom * (1 + MARGIN)
    back = lattices.inverse(pack.lattice)

    def go_on(state: tuple) -> Array:
        return (state[0] < steps) & state[2]

    def project(state: tuple) -> tuple:
        step, frac, _ = state
        vectors, distance, _ = _shortest(frac, reduced, inverse, pack)
        push = _push(vectors, distance, goal, moves, pack)
        moved = torus.wrap(frac + jnp.einsum("ni,nij->nj", push, back[pack.owner]))
        frac = jnp.where((moves & (push != 0).any(-1))[:, None], moved, frac)
        return step + 1, frac, (push != 0).any()

    start = (jnp.zeros((), jnp.int32), pack.frac, jnp.asarray(True))
    pack = pack._replace(frac=jax.lax.while_loop(go_on, project, start)[1])
    if not fixed_cell:
        scale = goal / least_distance(pack)
        wanted = (scale > 1) & (scale <= largest_scale)
        pack = pack._replace(lattice=pack.lattice * jnp.where(wanted, scale * (1 + MARGIN), 1.0)[:, None, None])
    return pack, least_distance(pack) >= distance_angstrom


def _push(vectors: Array, distance: Array, goal: float, moves: Array, pack: Pack) -> Array:
    """Displacement of each site in Å: the mean of what its violated pairs ask of it, and a tenth more: (n, 3)."""
    i, j = pack.pairs[:, 0], pack.pairs[:, 1]
    lacks = jnp.where((pack.pair_mask > 0) & (distance < goal), goal - distance, 0.0)
    # atoms in one place have no line between them: any fixed direction that differs from pair to pair will do
    first, second = i.astype(vectors.dtype), j.astype(vectors.dtype)
    seed = jnp.stack([jnp.sin(1 + 2.4 * first), jnp.sin(2 + 1.7 * second), jnp.cos(3.1 * (first + second))], -1)
    line = jnp.where((distance > 1e-3)[:, None], vectors, seed)
    line = line / jnp.maximum(jnp.linalg.norm(line, axis=-1, keepdims=True), 1e-12)
    alone = jnp.where(moves[i] & moves[j], 0.5, 1.0)  # beside a fixed atom a site goes all the way
    ask = 1.1 * (alone * lacks)[:, None] * line
    sites = len(pack.frac)
    total = jax.ops.segment_sum(ask, i, sites) - jax.ops.segment_sum(ask, j, sites)
    hit = (lacks > 0).astype(ask.dtype)
    count = jax.ops.segment_sum(hit, i, sites) + jax.ops.segment_sum(hit, j, sites)
    return jnp.where(moves[:, None], total / jnp.maximum(count, 1)[:, None], 0.0)

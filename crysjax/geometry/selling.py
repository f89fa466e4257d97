"""Selling's reduction: a short basis of a lattice for distance searches, in little code and quick to compile.

Of the four vectors a, b, c, -(a + b + c) no two enclose an acute angle once it is done (Selling 1874; Delaunay 1932).
The three shortest of them are a basis in which the image nearest to a difference wrapped to [-1/2, 1/2] is at most
one cell away along each axis. The Niggli cell of `reduction` is unique besides, which a search does not need.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MAX_STEPS = 1000
_PAIRS = np.array(list(itertools.combinations(range(4), 2)))


def selling(lattice: Array, tolerance: float = 1e-5) -> tuple[Array, Array]:
    """The reduced lattice and the whole-number matrix that makes it: `reduced = change @ lattice`.

    (b, 3, 3) in Å -> (b, 3, 3) in Å, (b, 3, 3) of the same dtype with determinant +1 or -1. Fractional coordinates
    follow as `frac @ inv(change)`. `tolerance` is relative, in units of volume^(2/3) for products of vectors.
    """
    change = jax.vmap(lambda one: _reduce(one, tolerance))(jax.lax.stop_gradient(lattice))
    return change @ lattice, change


def _moves() -> np.ndarray:
    """For each pair (i, j) of the four vectors: turn i round and add it to the two others. (6, 4, 4)"""
    moves = np.tile(np.eye(4), (6, 1, 1))
    for move, (i, j) in zip(moves, _PAIRS):
        move[[k for k in range(4) if k not in (i, j)], i] = 1
        move[i, i] = -1
    return moves


def _reduce(lattice: Array, tolerance: float) -> Array:
    moves = jnp.asarray(_moves(), lattice.dtype)
    least = tolerance * jnp.cbrt(jnp.abs(jnp.linalg.det(lattice))) ** 2

    def products(change: Array) -> Array:
        vectors = change @ lattice
        return (vectors[_PAIRS[:, 0]] * vectors[_PAIRS[:, 1]]).sum(-1)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        return state[0] + 1, moves[products(state[1]).argmax()] @ state[1]

    def more(state: tuple[Array, Array]) -> Array:
        return (state[0] < MAX_STEPS) & (products(state[1]).max() > least)

    four = jnp.concatenate([jnp.eye(3, dtype=lattice.dtype), -jnp.ones((1, 3), lattice.dtype)])
    change = jax.lax.while_loop(more, step, (jnp.zeros((), jnp.int32), four))[1]
    return change[jnp.argsort(jnp.square(change @ lattice).sum(-1))[:3]]

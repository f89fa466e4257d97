"""Reduced cells: the Niggli cell of a lattice, as a traced function.

Křivý & Gruber, Acta Cryst. A 32, 297 (1976), steps 1-8, with the comparisons under a tolerance of Grosse-Kunstleve,
Sauter & Adams, Acta Cryst. A 60, 1 (2004). Two things differ: the change of basis is kept as a whole-number matrix and
applied to the given lattice at each step, so rounding does not add up; and steps 5 to 7 subtract as many multiples at
once as fit, so a badly skewed cell takes a dozen steps and not thousands.

The basis change is piecewise constant: derivatives pass through `change @ lattice` alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

MAX_STEPS = 200
_SWAP_AB = ((0.0, -1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
_SWAP_BC = ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0))


def niggli(lattice: Array, tolerance: float = 1e-5) -> tuple[Array, Array]:
    """The Niggli-reduced lattice and the whole-number matrix that makes it: `reduced = change @ lattice`.

    (..., 3, 3) in Å -> (..., 3, 3) in Å, (..., 3, 3) of the same dtype with determinant +1. Fractional coordinates
    follow as `frac @ inv(change)`. `tolerance` is relative, in units of volume^(2/3) for the squared lengths.
    """
    fixed = jax.lax.stop_gradient(lattice).reshape(-1, 3, 3)
    change = jax.vmap(lambda one: _reduce(one, tolerance))(fixed).reshape(lattice.shape)
    return change @ lattice, change


def _reduce(lattice: Array, tolerance: float) -> Array:
    eps = tolerance * jnp.cbrt(jnp.abs(jnp.linalg.det(lattice))) ** 2

    def step(state: tuple) -> tuple:
        count, change, _ = state
        move, moved = _move(change @ lattice, eps)
        return count + 1, move @ change, moved

    def more(state: tuple) -> Array:
        return state[2] & (state[0] < MAX_STEPS)

    start = (jnp.zeros((), jnp.int32), jnp.eye(3, dtype=lattice.dtype), jnp.array(True))
    return jax.lax.while_loop(more, step, start)[1]


def _g6(lattice: Array) -> tuple[Array, ...]:
    """(A, B, C, xi, eta, zeta): the squared lengths and twice the inner products b·c, a·c, a·b."""
    g = lattice @ lattice.T
    return g[0, 0], g[1, 1], g[2, 2], 2 * g[1, 2], 2 * g[0, 2], 2 * g[0, 1]


def _move(lattice: Array, eps: Array) -> tuple[Array, Array]:
    """One round of the steps: sort, make the signs alike, then the first of the four shears that is due."""
    order, sorted_moved = _sort(lattice, eps)
    signs = jnp.diag(_signs(_g6(order @ lattice), eps)) @ order
    shear, sheared = _shear(_g6(signs @ lattice), eps, lattice.dtype)
    return shear @ signs, sorted_moved | sheared


def _sort(lattice: Array, eps: Array) -> tuple[Array, Array]:
    """Steps 1 and 2: A <= B <= C, ties by the inner products."""
    a, b, _, xi, eta, _ = _g6(lattice)
    first = (a > b + eps) | ((jnp.abs(a - b) < eps) & (jnp.abs(xi) > jnp.abs(eta) + eps))
    identity = jnp.eye(3, dtype=lattice.dtype)
    change = jnp.where(first, jnp.asarray(_SWAP_AB, lattice.dtype), identity)
    _, b, c, _, eta, zeta = _g6(change @ lattice)
    second = (b > c + eps) | ((jnp.abs(b - c) < eps) & (jnp.abs(eta) > jnp.abs(zeta) + eps))
    return jnp.where(second, jnp.asarray(_SWAP_BC, lattice.dtype), identity) @ change, first | second


def _signs(g6: tuple[Array, ...], eps: Array) -> Array:
    """Steps 3 and 4: signs of a, b, c that make the three inner products all positive, or none: (3,)."""
    products = jnp.stack(g6[3:])
    sign = jnp.where(products > eps, 1, jnp.where(products < -eps, -1, 0)).astype(products.dtype)
    none_positive = jnp.where(sign > 0, -1.0, 1.0).astype(products.dtype)
    # an odd number of flips would change the handedness; a product that is zero is free to take one more
    free = (sign == 0) & (jnp.cumsum(sign == 0) == (sign == 0).sum())
    odd = jnp.prod(none_positive) < 0
    none_positive = jnp.where(odd & free, -none_positive, none_positive)
    return jnp.where(jnp.prod(sign) > 0, sign, none_positive)


def _shear(g6: tuple[Array, ...], eps: Array, dtype) -> tuple[Array, Array]:
    """Steps 5 to 8: subtract b or a from c, a from b, or add a + b to c."""
    a, b, _, xi, eta, zeta = g6

    def due(product: Array, side: Array, up: Array, down: Array) -> Array:
        at_edge = (jnp.abs(side - product) < eps) & up | (jnp.abs(side + product) < eps) & down
        return (jnp.abs(product) > side + eps) | at_edge

    def times(product: Array, side: Array) -> Array:
        return jnp.sign(product) * jnp.maximum(jnp.round(jnp.abs(product) / (2 * side)), 1)

    rest = xi + eta + zeta + a + b
    cases = [
        (due(xi, b, 2 * eta < zeta - eps, zeta < -eps), (2, 1), -times(xi, b)),
        (due(eta, a, 2 * xi < zeta - eps, zeta < -eps), (2, 0), -times(eta, a)),
        (due(zeta, a, 2 * xi < eta - eps, eta < -eps), (1, 0), -times(zeta, a)),
    ]
    identity = jnp.eye(3, dtype=dtype)
    last = (rest < -eps) | ((jnp.abs(rest) < eps) & (2 * (a + eta) + zeta > eps))
    change = jnp.where(last, identity.at[2].set(1), identity)
    moved = last
    for wanted, place, value in reversed(cases):  # the first that is due wins
        change = jnp.where(wanted, identity.at[place].set(value), change)
        moved = moved | wanted
    return change, moved

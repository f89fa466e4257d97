"""A small linear program inside `jit` and `vmap`: the least energy of a mixture of given composition.

The revised simplex method of `physics.hull.simplex`, for one program of fixed size; batch with `vmap`, in which all
wait for the one with the most steps. Nothing here is differentiated: the prices are the derivative.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_MOST_STEPS = 96
_BLAND_AFTER = 48  # steps; from then on Bland's rule, which cannot cycle


class Optimum(NamedTuple):
    """What is left when no column would lower the energy any more; not `ended`: the other numbers mean nothing."""

    value: Array  # () eV/atom
    price: Array  # (d,) the derivative with respect to the amounts
    ended: Array  # () bool: optimal by its own certificate


def least_energy(x: Array, columns: Array, costs: Array) -> Optimum:
    """min costs.w over w >= 0 with columns^T w = x: (d,), (d + k, d) with the identity on top, (d + k,).

    Revised simplex (Dantzig's rule) from the first d columns; the inverse of the basis is updated by each pivot and
    then corrected by one Newton step, so that it is as good as a fresh one.
    """
    d, eps = len(x), jnp.finfo(x.dtype).eps.astype(x.dtype)
    smallest = jnp.maximum(4 * eps, jnp.asarray(1e-11, x.dtype))  # eV/atom by which the answer may miss the optimum

    def priced(basis: Array, inverse: Array) -> tuple[Array, Array]:
        price = inverse @ costs[basis]
        return price, (costs - columns @ price).at[basis].set(0)  # that of the basis itself is rounding

    def going(state: tuple) -> Array:
        return ~state[3] & (state[2] < _MOST_STEPS)

    def step(state: tuple) -> tuple:
        basis, inverse, steps, _ = state
        _, reduced = priced(basis, inverse)
        dantzig = steps < _BLAND_AFTER
        better = reduced < -smallest * jnp.where(dantzig, 1, 4).astype(
            x.dtype
        )  # what has not ended by then goes round in rounding
        entering = jnp.where(dantzig, reduced.argmin(), better.argmax())
        direction = inverse.T @ columns[entering]
        leaving = _leaving(inverse.T @ x, direction, basis, dantzig, eps)
        changed, moved = basis.at[leaving].set(entering.astype(jnp.int32)), _pivoted(inverse, direction, leaving)
        ended = ~better.any()
        moved = moved @ (2 * jnp.eye(d, dtype=x.dtype) - columns[changed] @ moved)
        return jnp.where(ended, basis, changed), jnp.where(ended, inverse, moved), steps + 1, ended

    start = jnp.arange(d, dtype=jnp.int32), jnp.eye(d, dtype=x.dtype), jnp.int32(0), jnp.bool_(False)
    basis, inverse, _, ended = jax.lax.while_loop(going, step, start)
    price, _ = priced(basis, inverse)
    amount = inverse.T @ x
    amount = amount + inverse.T @ (x - columns[basis].T @ amount)  # one refinement: the sum is then good to rounding
    return Optimum((costs[basis] * amount).sum(), price, ended & (amount >= -32 * eps).all())


def _leaving(amount: Array, direction: Array, basis: Array, dantzig: Array, eps: Array) -> Array:
    """The place of the column that runs out first; of equals, the largest pivot or, by Bland's rule, the first."""
    falls = direction > 0.3 * jnp.sqrt(eps)  # below it they are rounding: their pivot would be a singular basis
    ratio = jnp.where(falls, jnp.maximum(amount, 0) / jnp.where(falls, direction, 1), jnp.inf)
    first = ratio <= ratio.min() + 8 * eps
    return jnp.where(first, jnp.where(dantzig, direction, -basis.astype(direction.dtype)), -jnp.inf).argmax()


def _pivoted(inverse: Array, direction: Array, leaving: Array) -> Array:
    """The inverse of a basis (rows are columns of the program) of which one row has been replaced."""
    pivot = inverse[:, leaving] / direction[leaving]
    return (inverse - pivot[:, None] * direction[None, :]).at[:, leaving].set(pivot)

"""Gradient descent with any optax optimizer as a search strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from crysjax.base import PyTree, Search


class GradientState(NamedTuple):
    """The next point is `project(here + move)`."""

    here: PyTree  # the last point whose value and gradient were finite
    move: PyTree
    optimizer: PyTree


def gradient(optimizer: optax.GradientTransformation, *, project: Callable[[PyTree], PyTree] = lambda x: x) -> Search:
    """Follow `optimizer`; the first point evaluated is the start itself.

    `project` returns every point to where it is allowed to be (for instance `x % 1` for fractional coordinates).
    A move to a place where the objective is not finite is halved until it is finite again, and the optimizer's own
    state does not learn of it. A start that is not finite stays where it is.
    """

    def init(key: Array, x: PyTree) -> GradientState:
        return GradientState(x, jax.tree.map(jnp.zeros_like, x), optimizer.init(x))

    def ask(key: Array, state: GradientState) -> PyTree:
        return project(optax.apply_updates(state.here, state.move))

    def tell(state: GradientState, x: PyTree, value: Array, grad: PyTree) -> GradientState:
        with jax.numpy_dtype_promotion("standard"):  # optax itself mixes integer counts and floats
            move, learned = optimizer.update(grad, state.optimizer, x)
        back = GradientState(state.here, jax.tree.map(lambda m: m / 2, state.move), state.optimizer)
        on = GradientState(x, move, learned)
        return jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(value), a, b), on, back)

    return Search(init, ask, tell, needs_grad=True)

"""Langevin samplers: stochastic gradient Langevin dynamics, plain and RMSprop-preconditioned.

Both aim at the law p(x) ∝ exp(-U(x) / T) of an objective U and move without an accept step:

    x' = x - h G ∇U(x) + sqrt(2 h T G) ξ,   ξ ~ N(0, 1)

(h is half of the ε of Welling & Teh 2011, eq. 4.) G = 1 is SGLD. Without an accept step the law is biased at finite h.
For a quadratic U with eigenvalue λ along an axis the move is x' = (1 - hGλ) x + sqrt(2hTG) ξ, whose stationary variance
solves v = (1 - hGλ)² v + 2hTG:

    v = T / (λ (1 - hGλ / 2)),   stable for hGλ < 2.

(With ε = 2h this is the factor 1 - ελ/4.) A step that decays removes the bias, at the price of ever slower mixing.
That is the law after many moves. After k of them the mean has (1 - hGλ)^k of its start's distance left, so chains of a
few small steps sample the law that they started from. The first of `steps` evaluations is the start: k = steps - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import PyTree, Search

Schedule = Callable[[Array], Array]


class LangevinState(NamedTuple):
    """The next point is `project(mean + spread * ξ)`; `spread` is zero at first, so that the start is evaluated."""

    mean: PyTree
    spread: PyTree
    square: PyTree  # running mean of the squared gradient
    count: Array  # steps taken


def polynomial(a: float, b: float, power: float) -> Schedule:
    """The decaying step a (b + t)^-power of Welling & Teh; they ask for 0.5 < power ≤ 1."""
    return lambda count: a * (b + count.astype(jnp.float32)) ** -power


def sgld(*, step_size: float | Schedule, temperature: float = 1.0, project=lambda x: x) -> Search:
    """Stochastic gradient Langevin dynamics (Welling & Teh 2011).

    `step_size` is h above, or a function of the step count (any optax schedule). `project` is applied after each move
    (for instance `x % 1` for fractional coordinates). Where the objective was not finite the move is drawn again from
    the last good point: such places have no probability. (A start that is not finite stays where it is.)
    """

    def metric(square: PyTree, grad: PyTree):
        return square, jax.tree.map(jnp.ones_like, grad)

    return _langevin(step_size, temperature, project, metric)


def psgld(
    *,
    step_size: float | Schedule,
    temperature: float = 1.0,
    alpha: float = 0.99,
    eps: float = 1e-5,
    project=lambda x: x,
) -> Search:
    """SGLD preconditioned by RMSprop (Li et al. 2016, Algorithm 1).

    G = 1 / (eps + sqrt(V)), V a running mean of ∇U² with weight `alpha`, started at the first squared gradient.
    The exact dynamics has a further drift T Γ, Γ_i = ∂G_i/∂x_i. Γ is dropped, as is usual, and this biases the law:
    with τ = 1 / (hGλ) the correlation time in steps, the relative bias is of the order (1 - alpha) τ, because V that
    follows the gradient makes G depend on x. In the limit alpha → 0 the law becomes exp(-U/T) / G (for a Gaussian and
    small eps: twice the variance); with (1 - alpha) τ ≪ 1 G is constant and the law is right, up to the bias in h
    above. So choose `alpha` closer to 1 for smaller steps.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"psgld: alpha is {alpha}; expected 0 ≤ alpha < 1")

    def average(v: Array, g: Array) -> Array:
        return jnp.where(v < 0, g**2, alpha * v + (1 - alpha) * g**2)  # v < 0: no gradient seen yet

    def metric(square: PyTree, grad: PyTree):
        square = jax.tree.map(average, square, grad)
        return square, jax.tree.map(lambda v: 1 / (eps + jnp.sqrt(v)), square)

    return _langevin(step_size, temperature, project, metric)


def _langevin(step_size, temperature: float, project, metric) -> Search:
    """The common move; `metric(square, grad) -> (square, G)`."""
    schedule = step_size if callable(step_size) else lambda count: step_size
    if temperature < 0:
        raise ValueError(f"langevin: temperature is {temperature}; expected 0 or more")

    def init(key: Array, x: PyTree) -> LangevinState:
        zeros = jax.tree.map(jnp.zeros_like, x)
        return LangevinState(x, zeros, jax.tree.map(lambda a: a - 1, zeros), jnp.zeros((), jnp.int32))

    def ask(key: Array, state: LangevinState) -> PyTree:
        leaves, tree = jax.tree.flatten(state.mean)
        keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
        noise = jax.tree.map(lambda k, m: jax.random.normal(k, m.shape, m.dtype), keys, state.mean)
        return project(jax.tree.map(lambda m, s, n: m + s * n, state.mean, state.spread, noise))

    def tell(state: LangevinState, x: PyTree, value: Array, grad: PyTree) -> LangevinState:
        step = schedule(state.count)
        square, scale = metric(state.square, grad)
        mean = jax.tree.map(lambda a, g, d: a - jnp.asarray(step, a.dtype) * d * g, x, grad, scale)
        spread = jax.tree.map(lambda d: jnp.sqrt(2 * temperature * jnp.asarray(step, d.dtype) * d), scale)
        moved = LangevinState(mean, spread, square, state.count + 1)
        return jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(value), a, b), moved, state)

    return Search(init, ask, tell, needs_grad=True)

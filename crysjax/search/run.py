"""The one loop that every search strategy runs in: ask for a point, evaluate it, tell the value.

It is a single `lax.scan` over a traced objective, so it can be jitted, vmapped over keys and starting points (chains),
and nested in larger programs. Strategies hold no objective and objectives know no strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import PyTree, Search


class Best(NamedTuple):
    """The lowest finite value met, and where; `value` is +inf (and `x` the start) where none was finite."""

    x: PyTree
    value: Array  # (), or (m,) of the parts of one point


class Trace(NamedTuple):
    """What happened at each step."""

    value: Array  # (steps,), or (steps, m) of a population or of parts; +inf where the objective was not finite
    finite: Array  # the same shape, bool: value and gradient were both finite
    record: PyTree  # `record(x)` of each step, stacked
    last: PyTree  # the point asked for at the last step: the sample, where the strategy is a sampler


def run(
    search: Search,
    objective: Callable[[PyTree], Array],
    key: Array,
    x0: PyTree,
    steps: int,
    record: Callable[[PyTree], PyTree] = lambda x: None,
    choose: Callable[[Array, PyTree, PyTree], PyTree] | None = None,
) -> tuple[Best, Trace]:
    """Minimize (or sample) `objective` from `x0` with `steps` evaluations.

    `objective(x)` is a scalar. Strategies that ask for a population give `x` a leading axis `m` and take an objective
    that answers (m,), for instance `jax.vmap(f)`; `Best.x` is then the best member.
    A value that is NaN or infinite (either sign) counts as +inf: it is never the best, and the strategy is told +inf
    and a zero gradient. The same is told where only the gradient is not finite, but such a point may be the best.
    A point may be made of m parts that have nothing to do with each other (the crystals of a pack): with
    `choose(won (m,), new, old) -> x`, which takes the parts of `new` that won and all others of `old`, the objective
    answers (m,), and `Best` holds the best of each part by itself. The strategy is told the sum over the finite parts,
    and 0 for single entries of the gradient that are not finite. One that accepts some points and rejects others
    (`Search.compares`) is told the m values instead, +inf where not finite, and has `choose` of its own; what is () in
    its first state gets the shape that `tell` gives it.
    `record` picks what to keep of each point; keeping nothing is the default because points can be large.
    Wrap calls in `jax.jit`: outside of it every call traces the objective anew.
    """
    if steps < 1:
        raise ValueError(f"run: steps is {steps}; at least 1 evaluation is needed")
    evaluate = _evaluator(objective, search.needs_grad, choose is not None)
    summed = choose is not None and not search.compares

    def step(carry, key):
        state, best, _ = carry
        x = search.ask(key, state)
        value, grad, finite = evaluate(x)
        told = jnp.where(finite, value, 0).sum() if summed else jnp.where(finite, value, jnp.inf)
        state = search.tell(state, x, told, grad)
        return (state, _better(best, x, value, choose), x), (value, finite, record(x))

    key_init, key_last, key_steps = jax.random.split(key, 3)
    state = search.init(key_init, x0)
    x_shape, value_shape = jax.eval_shape(lambda: (x := search.ask(key_last, state), evaluate(x)[0]))
    if search.compares:
        after = jax.eval_shape(search.tell, state, x_shape, value_shape, x_shape if search.needs_grad else None)
        state = jax.tree.map(lambda a, b: a if a.shape == b.shape else jnp.broadcast_to(a, b.shape), state, after)
    best = Best(x0, jnp.full(() if choose is None else value_shape.shape, jnp.inf, value_shape.dtype))
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x_shape)
    keys = jax.random.split(key_steps, steps)
    (_, best, last), (value, finite, recorded) = jax.lax.scan(step, (state, best, nothing), keys)
    return best, Trace(value, finite, recorded, last)


def _evaluator(objective, needs_grad: bool, parts: bool):
    """x -> (value with +inf for what is not finite, safe gradient or None, whether all of it was finite).

    Which entries of a gradient belong to which part is not known here, so with `parts` each is made safe by itself.
    """

    def summed(x):
        value = objective(x)
        return value.sum(), value  # members of a population are independent: the gradient of the sum is each one's own

    def evaluate(x):
        if not needs_grad:
            value, grad = objective(x), None
            finite = jnp.isfinite(value)
        else:
            (_, value), grad = jax.value_and_grad(summed, has_aux=True)(x)
            if parts:
                finite, good = jnp.isfinite(value), jnp.isfinite
            else:
                finite = jnp.isfinite(value) & _grad_finite(grad, value.ndim)
                good = lambda g: _expand(finite, g.ndim)  # noqa: E731
            grad = jax.tree.map(lambda g: jnp.where(good(g), g, jnp.zeros_like(g)), grad)
        return jnp.where(jnp.isfinite(value), value, jnp.inf), grad, finite

    return evaluate


def _grad_finite(grad: PyTree, axes: int) -> Array:
    """Whether all entries are finite, over everything but the first `axes` axes."""
    each = [jnp.isfinite(g).all(tuple(range(axes, g.ndim))) for g in jax.tree.leaves(grad)]
    return jnp.stack(each).all(0)


def _expand(mask: Array, ndim: int) -> Array:
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim)) if mask.ndim else mask


def _better(best: Best, x: PyTree, value: Array, choose: Callable | None) -> Best:
    """Keep the lower of the best so far and this point, this population's best member, or each part's own."""
    if choose is not None:
        won = value < best.value
        return Best(choose(won, x, best.x), jnp.where(won, value, best.value))
    if value.ndim:
        winner = value.argmin()
        x, value = jax.tree.map(lambda a: a[winner], x), value[winner]
    won = value < best.value
    return Best(jax.tree.map(lambda new, old: jnp.where(won, new, old), x, best.x), jnp.where(won, value, best.value))

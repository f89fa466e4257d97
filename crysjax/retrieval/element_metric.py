"""A metric of elements learned from pairs: how far apart two elements are, judged by whether structures survive.

Every pair (`retrieval/pairs`) is an experiment: a template with its elements exchanged has the structure of the
crystal, or not. Elements become points so that templates at a small mean distance are the ones that survive. It starts
from Mendeleev number, electronegativity and radius (`templates.element_table`); ionic substitution models fit a number
for each pair of ions instead (Hautier et al. 2011), for which 16,000 crystals are few.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crysjax.data.datasets import Dataset
from crysjax.retrieval.templates import element_table


class _Tries(NamedTuple):
    """Pairs as arrays: one row per site, and one row per pair."""

    pair: np.ndarray  # (sites,) which pair a site belongs to
    new: np.ndarray  # (sites,) element that the site carries, from 0
    old: np.ndarray  # (sites,) element of the template
    size: np.ndarray  # (pairs,)
    query: np.ndarray  # (pairs,) which crystal is asked for
    matched: np.ndarray  # (pairs,) 1 where the structure survived


def facts(pairs: Dataset) -> dict[str, list]:
    """The settings that `crysjax train` finds in the training part: `elements`, rounded so that a config holds it."""
    return {"elements": learned(pairs).astype(float).round(4).tolist()}


def learned(pairs: Dataset, *, width: int = 8, steps: int = 300, rate: float = 0.03, pull: float = 3e-4) -> np.ndarray:
    """Elements H..Fm as points: (100, width).

    Minimizes the cross entropy of every pair and, among the templates of one crystal, of those that survived (a
    softmax over the crystal's templates), by Adam over all pairs at once.

    Args:
        pull: towards the start, a squared distance; an element without pairs stays there.
    """
    tries = _tries(pairs)
    rng = np.random.default_rng(0)
    table = element_table()
    start = np.concatenate([table, 0.1 * rng.normal(size=(len(table), width - table.shape[1]))], 1)
    first = {"elements": jnp.asarray(start, jnp.float32), "log_scale": jnp.ones(()), "offset": jnp.ones(())}
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def loss(params: dict) -> jax.Array:
        near = _nearness(params, tries)
        away = jnp.sum(jnp.square(params["elements"] - first["elements"]))
        return _among(near, tries) + _each(near + params["offset"], tries) + pull * away

    def step(carry: tuple, _: None) -> tuple:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        (params, _), _ = jax.jit(lambda: jax.lax.scan(step, (first, optimizer.init(first)), None, steps))()
    return np.asarray(params["elements"])


def _tries(pairs: Dataset) -> _Tries:
    if "was" not in pairs.site_properties:
        raise ValueError("data: this set has no pairs of a crystal and a template; `crysjax data pairs` makes them")
    pair = np.repeat(np.arange(len(pairs)), pairs.num_atoms)
    old = pairs.site_properties["was"].astype(int) - 1
    query = np.unique(pairs.ids, return_inverse=True)[1]
    size, matched = (np.asarray(v, np.float32) for v in (pairs.num_atoms, pairs.properties["matched"]))
    return _Tries(pair, pairs.numbers.astype(int) - 1, old, size, query, matched)


def _nearness(params: dict, tries: _Tries) -> jax.Array:
    """Minus the scaled root of the mean squared distance over the sites: (pairs,)."""
    apart = params["elements"][tries.old] - params["elements"][tries.new]
    total = jax.ops.segment_sum(jnp.sum(jnp.square(apart), -1), tries.pair, len(tries.size))
    return -jnp.exp(params["log_scale"]) * jnp.sqrt(total / tries.size + 1e-4)


def _among(near: jax.Array, tries: _Tries) -> jax.Array:
    """Cross entropy of the templates that survived among all of their crystal, over crystals with any."""
    crystals = int(tries.query.max()) + 1
    most = jax.ops.segment_max(near, tries.query, crystals)
    weight = jnp.exp(near - most[tries.query])
    right = jax.ops.segment_sum(weight * tries.matched, tries.query, crystals)
    share = right / jax.ops.segment_sum(weight, tries.query, crystals)
    any_right = share > 0
    return -jnp.sum(jnp.where(any_right, jnp.log(jnp.where(any_right, share, 1)), 0)) / any_right.sum()


def _each(logit: jax.Array, tries: _Tries) -> jax.Array:
    """Binary cross entropy of every pair."""
    return jnp.mean(jnp.maximum(logit, 0) - logit * tries.matched + jnp.log1p(jnp.exp(-jnp.abs(logit))))

"""Classifier-free guidance: a model that also learned to answer without its conditions steers itself towards them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Condition, PyTree

Weights = float | tuple[float, ...]


def check_weights(weights: Weights, properties: int) -> None:
    """An error for a list of weights that does not fit the model's conditions."""
    if isinstance(weights, Sequence) and len(weights) != properties + 1:
        raise ValueError(
            f"guidance: {len(weights)} weights; expected one number for all conditions together, or {properties + 1}: "
            "one per property, then the space group's"
        )


def guided(predict: Callable[[Condition], PyTree], condition: Condition, weights: Weights) -> PyTree:
    """What a network says under guidance; whatever is linear in the score may be combined so, logits included.

    One weight w for all conditions together: `(1 + w) e(all) - w e()` (Ho & Salimans 2022, eq. 6); 0 is conditional.
    A weight for each condition: `e() + sum_k w_k (e(k) - e())`, where e(k) knows condition k alone (Liu et al. 2022,
    eq. 11): all 0 is unconditional, a single 1 is the model under that condition. It supposes that conditions are
    independent given the crystal, and is exact at t = 0 alone (Du et al. 2023). A condition that a crystal is not given
    contributes nothing. All answers come from one batched call, and weights of 0 cost none.

    Args:
        predict: the network's answer under a condition, a pytree.
        condition: what is asked.
        weights: a number, or one per property and then one for the space group.
    """
    every = np.eye(condition.properties.shape[1] + 1, dtype=bool)
    if not isinstance(weights, Sequence):
        if weights == 0:
            return predict(condition)
        given, free = _answers(predict, condition, np.stack([every.any(0), ~every.any(0)]))
        return jax.tree.map(lambda a, b: (1 + weights) * a - weights * b, given, free)
    used = [k for k, weight in enumerate(weights) if weight]
    free, *alone = _answers(predict, condition, np.concatenate([~every.any(0)[None], every[used]]))
    return jax.tree.map(lambda b, *each: b + sum(weights[k] * (a - b) for k, a in zip(used, each)), free, *alone)


def _answers(predict: Callable[[Condition], PyTree], condition: Condition, kept: np.ndarray) -> list[PyTree]:
    """The answers to parts of the condition, in one call over a new axis: `kept` (answers, k + 1) says which parts."""
    properties = jnp.where(kept[:, None, :-1], condition.properties[None], jnp.nan)
    groups = jnp.where(kept[:, -1:], condition.space_group[None], 0)
    every = jax.vmap(lambda p, g: predict(condition._replace(properties=p, space_group=g)))(properties, groups)
    return [jax.tree.map(lambda leaf, k=k: leaf[k], every) for k in range(len(kept))]

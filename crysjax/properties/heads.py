"""Property heads: several scalar properties of a crystal from the invariant features of a backbone.

Missing labels are NaN and weigh nothing. Targets are standardised by settings, not by parameters, so that a model
rebuilds itself from its config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Estimate, Network, Pack, Params, num_sites


class Heads(NamedTuple):
    """A property model; what `training.loop` trains and what screens candidates."""

    names: tuple[str, ...]  # the k properties, in the order of the columns; a name carries its unit
    init: Callable[..., Params]  # (key, pack) -> params
    loss: Callable[
        ..., tuple[Array, dict]
    ]  # (params, key, pack, targets (b, k), weights (b,) = 1) -> (scalar, metrics)
    predict: Callable[[Params, Pack], Estimate]  # (params, pack) -> Estimate of (b, k)


def heads(
    network: Network,
    *,
    names: tuple[str, ...],
    center: tuple[float, ...],
    scale: tuple[float, ...],
    hidden: int = 128,
    huber_delta: float = 1.0,
    std: tuple[float, ...] | None = None,
) -> Heads:
    """One network with one small perceptron for all properties `names`.

    Args:
        network: the backbone; `Prediction.crystal` is read. Its context is a constant.
        names: properties, units in the names.
        center, scale: mean and standard deviation of each property in the training data.
        hidden: width of the perceptron.
        huber_delta: where the loss turns from quadratic to linear, in units of `scale`.
        std: what `predict` reports as std: the error on held-out data. Left out, it is `scale`: no claim to knowledge.

    `loss` is the mean Huber loss over labels. Its metrics are sums, so that they add up over packs:
    `error_sum/NAME` (absolute errors, in the property's unit) over `count/NAME` is the mean absolute error.
    """
    _check(names, center=center, scale=scale, std=scale if std is None else std)
    centre_k, scale_k = (jnp.asarray(a, jnp.float32)[None] for a in (center, scale))
    std_k = scale_k if std is None else jnp.asarray(std, jnp.float32)[None]
    perceptron = _Perceptron(hidden, len(names))

    def features(params: Params, pack: Pack) -> Array:
        return network.apply(params["network"], pack, _context(pack)).crystal

    def init(key: Array, pack: Pack) -> Params:
        key_network, key_head = jax.random.split(key)
        params = {"network": network.init(key_network, pack, _context(pack))}
        shape = jax.eval_shape(features, params, pack)
        return params | {"head": perceptron.init(key_head, jnp.zeros(shape.shape, shape.dtype))["params"]}

    def standardized(params: Params, pack: Pack) -> Array:
        return perceptron.apply({"params": params["head"]}, features(params, pack))

    def loss(params: Params, key: Array, pack: Pack, targets: Array, weights: Array | None = None):
        known = jnp.isfinite(targets) & (num_sites(pack) > 0)[:, None]
        error = jnp.where(known, (jnp.where(known, targets, 0) - centre_k) / scale_k - standardized(params, pack), 0)
        weight = known.astype(error.dtype) * (1 if weights is None else weights[:, None])
        value = (weight * huber(error, huber_delta)).sum() / jnp.maximum(weight.sum(), 1e-6)
        absolute, count = (jnp.abs(error) * scale_k).sum(0), known.sum(0)
        metrics = {f"error_sum/{name}": absolute[i] for i, name in enumerate(names)}
        return value, metrics | {f"count/{name}": count[i].astype(error.dtype) for i, name in enumerate(names)}

    def predict(params: Params, pack: Pack) -> Estimate:
        value = standardized(params, pack) * scale_k + centre_k
        valid = jnp.isfinite(value) & (num_sites(pack) > 0)[:, None]
        return Estimate(jnp.where(valid, value, centre_k), jnp.broadcast_to(std_k, value.shape), valid)

    return Heads(tuple(names), init, loss, predict)


def huber(error: Array, delta: float) -> Array:
    """e²/2 up to `delta`, delta (|e| - delta/2) beyond (Huber 1964)."""
    size = jnp.minimum(jnp.abs(error), delta)
    return size * (jnp.abs(error) - 0.5 * size)


def mean_absolute_errors(metrics: dict[str, float]) -> dict[str, float]:
    """Mean absolute error of each property out of (sums or means of) the loss's metrics; NaN without a label."""
    names = [key.removeprefix("count/") for key in metrics if key.startswith("count/")]
    return {
        n: metrics[f"error_sum/{n}"] / metrics[f"count/{n}"] if metrics[f"count/{n}"] else float("nan") for n in names
    }


class _Perceptron(nn.Module):
    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weight = self.param("first", nn.initializers.lecun_normal(), (x.shape[-1], self.hidden))
        bias = self.param("first_bias", nn.initializers.zeros, (self.hidden,))
        second = self.param("second", nn.initializers.lecun_normal(), (self.hidden, self.outputs))
        second_bias = self.param("second_bias", nn.initializers.zeros, (self.outputs,))
        return nn.silu(x @ weight + bias[None, :]) @ second + second_bias[None, :]


def _context(pack: Pack) -> Array:
    """Nothing is known beforehand: a constant column."""
    return jnp.ones((pack.lattice.shape[0], 1), pack.frac.dtype)


def _check(names: tuple[str, ...], **settings: tuple[float, ...]) -> None:
    for setting, values in settings.items():
        if len(values) != len(names):
            raise ValueError(f"heads: {setting} has {len(values)} entries; expected one for each of {list(names)}")
        if setting != "center" and min(values) <= 0:
            raise ValueError(f"heads: {setting} is {list(values)}; expected numbers above 0")

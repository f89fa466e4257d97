"""Property heads: several scalar properties of a crystal from the invariant features of a backbone.

Missing labels are NaN and weigh nothing. Targets are standardized by settings, not by parameters, so that a model
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
from crysjax.predictors import novelty


class Whole(NamedTuple):
    """All that heads say of a pack, for one pass of the network."""

    estimate: Estimate
    novelty: Array  # (b,)
    features: Array  # (b, d)


class Heads(NamedTuple):
    """A property model; what `training.loop` trains and what screens candidates."""

    names: tuple[str, ...]  # the k properties, in the order of the columns; a name carries its unit
    init: Callable[..., Params]  # (key, pack) -> params
    loss: Callable[
        ..., tuple[Array, dict]
    ]  # (params, key, pack, targets (b, k), weights (b,) = 1) -> (scalar, metrics)
    predict: Callable[[Params, Pack], Estimate]  # (params, pack) -> Estimate of (b, k)
    features: Callable[[Params, Pack], Array]  # (params, pack) -> (b, d), what the predictions are made of
    novelty: Callable[[Params, Pack], Array]  # (params, pack) -> (b,), see `novelty.score`; 0 where it is not known
    of_sites: bool = False  # whether labels and predictions are those of sites, (n, k)
    whole: Callable[[Params, Pack], Whole] | None = None  # the three above together; `together` where it is None

    def together(self, params: Params, pack: Pack) -> Whole:
        """Predictions, novelty and features, for one pass of the network where the heads can."""
        if self.whole is not None:
            return self.whole(params, pack)
        return Whole(self.predict(params, pack), self.novelty(params, pack), self.features(params, pack))


def heads(
    network: Network,
    *,
    names: tuple[str, ...],
    center: tuple[float, ...],
    scale: tuple[float, ...],
    hidden: int = 128,
    huber_delta: float = 1.0,
    std: tuple[float, ...] | None = None,
    least: tuple[float | None, ...] = (),
) -> Heads:
    """One network with one small perceptron for all properties `names`.

    Args:
        network: the backbone; `Prediction.crystal` is read. Its context is a constant.
        names: the properties to predict, with units in their names.
        center: mean of each property in the training data, in its unit.
        scale: standard deviation of each property in the training data, in its unit.
        hidden: width of the perceptron.
        huber_delta: where the loss turns from quadratic to linear, in units of `scale`.
        std: standard deviation that `predict` reports for each property, in its unit: the error on held-out data. Left
            out, it is `scale`, that of a model that knows nothing.
        least: the smallest possible value of each property, `None` where there is none (a formation energy). What is
            predicted stays above it and keeps a slope: a softplus takes the place of the identity.

    A crystal that the network refuses has no part in the loss and no valid prediction.

    `loss` is the mean Huber loss over labels. Its metrics are sums, so that they add up over packs:
    `error_sum/NAME` (absolute errors, in the property's unit) over `count/NAME` is the mean absolute error.
    """
    _check(names, center=center, scale=scale, std=scale if std is None else std)
    center_k, scale_k = (jnp.asarray(a, jnp.float32)[None] for a in (center, scale))
    bounded, least_k = _bounds(names, least)
    std_k = scale_k if std is None else jnp.asarray(std, jnp.float32)[None]
    perceptron = _Perceptron(hidden, len(names))

    def features(params: Params, pack: Pack) -> Array:
        return network.apply(params["network"], pack, _context(pack)).crystal

    def init(key: Array, pack: Pack) -> Params:
        key_network, key_head = jax.random.split(key)
        params = {"network": network.init(key_network, pack, _context(pack))}
        shape = jax.eval_shape(features, params, pack)
        return params | {"head": perceptron.init(key_head, jnp.zeros(shape.shape, shape.dtype))["params"]}

    def answer(params: Params, pack: Pack, found: Array) -> tuple[Array, Array]:
        """Of the features: values (b, k), finite everywhere, and which crystals they are known of (b, 1)."""
        known = jnp.isfinite(found).all(-1, keepdims=True) & (num_sites(pack) > 0)[:, None]
        plain = perceptron.apply({"params": params["head"]}, jnp.where(known, found, 0)) + center_k / scale_k
        above = least_k + scale_k * _softplus(plain - least_k / scale_k)
        return jnp.where(bounded, above, plain * scale_k), known

    def loss(params: Params, key: Array, pack: Pack, targets: Array, weights: Array | None = None):
        value, known = answer(params, pack, features(params, pack))
        known = jnp.isfinite(targets) & known
        error = jnp.where(known, jnp.where(known, targets, 0) - value, 0) / scale_k
        weight = known.astype(error.dtype) * (1 if weights is None else weights[:, None])
        total = (weight * huber(error, huber_delta)).sum() / jnp.maximum(weight.sum(), 1e-6)
        absolute, count = (jnp.abs(error) * scale_k).sum(0), known.sum(0)
        metrics = {f"error_sum/{name}": absolute[i] for i, name in enumerate(names)}
        return total, metrics | {f"count/{name}": count[i].astype(error.dtype) for i, name in enumerate(names)}

    def whole(params: Params, pack: Pack) -> Whole:
        found = features(params, pack)
        value, known = answer(params, pack, found)
        valid = jnp.isfinite(value) & known
        estimate = Estimate(jnp.where(valid, value, center_k), jnp.broadcast_to(std_k, value.shape), valid)
        unknown = jnp.zeros(pack.lattice.shape[0], pack.frac.dtype)
        far = novelty.score(params["known"], found, pack) if "known" in params else unknown
        return Whole(estimate, far, found)

    def predict(params: Params, pack: Pack) -> Estimate:
        return whole(params, pack).estimate

    def far(params: Params, pack: Pack) -> Array:
        return whole(params, pack).novelty

    return Heads(tuple(names), init, loss, predict, features, far, whole=whole)


def aware(heads: Heads, *, slope: tuple[float, ...], usual: float, limit: float) -> Heads:
    """The same heads with a std that grows by `exp(slope * (novelty - usual))` beyond the usual novelty.

    Args:
        slope: how fast the error grows with the novelty, one number per property; measured on crystals that
            training did not cover (`experiments/uncertainty/shift.py`).
        usual: median novelty of held-out crystals from the distribution of the training set.
        limit: 99 % quantile of the novelty of these crystals. A crystal beyond it counts as outside the training data.
    """
    if len(slope) != len(heads.names) or min(slope) < 0:
        raise ValueError(
            f"novelty: slope is {list(slope)}; expected a number from 0 on for each of {list(heads.names)}"
        )
    if limit < usual:
        raise ValueError(f"novelty: limit is {limit}; expected at least usual, {usual}")
    slopes = jnp.asarray(slope, jnp.float32)[None]

    def grown(estimate: Estimate, novelty: Array) -> Estimate:
        return estimate._replace(std=estimate.std * jnp.exp(slopes * jnp.maximum(novelty - usual, 0)[:, None]))

    def whole(params: Params, pack: Pack) -> Whole:
        said = heads.together(params, pack)
        return said._replace(estimate=grown(said.estimate, said.novelty))

    def predict(params: Params, pack: Pack) -> Estimate:
        if heads.whole is not None:
            return whole(params, pack).estimate
        return grown(heads.predict(params, pack), heads.novelty(params, pack))

    return heads._replace(predict=predict, whole=None if heads.whole is None else whole)


SHARPNESS = 2.0  # of the bend at the smallest possible value, in units of the property's scale


def _softplus(x: Array) -> Array:
    return jax.nn.softplus(SHARPNESS * x) / SHARPNESS


def _bounds(names: tuple[str, ...], least: tuple[float | None, ...]) -> tuple[Array, Array]:
    """Which properties have a smallest possible value, and it (0 where they have none): (1, k) each."""
    least = tuple(least) or (None,) * len(names)
    if len(least) != len(names):
        raise ValueError(f"heads: least has {len(least)} entries; expected one for each of {list(names)}")
    bounded = jnp.asarray([x is not None for x in least])[None]
    return bounded, jnp.asarray([0.0 if x is None else x for x in least], jnp.float32)[None]


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

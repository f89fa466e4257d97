"""An ensemble of small networks on feature vectors with learned noise and a calibrated std (Lakshminarayanan 2017).

Member m predicts a mean μ_m and a variance v_m and is trained on the Gaussian negative log likelihood. The mixture's
variance splits into epistemic (variance of μ_m over members) and aleatoric (mean of v_m). The std is multiplied by a
temperature: the root mean square of (y - μ) / std on a part of the data that no member was trained on.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from crysjax.base import Estimate, Params, Surrogate
from crysjax.surrogates.observations import Observations, observe, pad


class EnsemblePosterior(NamedTuple):
    data: Observations
    params: Params  # every leaf has a leading axis of members
    temperature: Array  # ()


def deep_ensemble(
    *,
    members: int = 8,
    hidden: tuple[int, ...] = (64, 64),
    steps: int = 500,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    held_out: float = 0.2,
    noise_floor: float = 1e-2,
    capacity: int | None = None,
) -> Surrogate:
    """A deep ensemble as a `Surrogate`, trained on all rows at once; sizes as in `gp`.

    `held_out`: the share of rows kept for the temperature (0: temperature 1). `noise_floor`: the least aleatoric std,
    in units of the data's std. Rows whose y is NaN are left out; with `capacity` growing data never recompiles.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"deep_ensemble: held_out is {held_out}; expected 0 ≤ held_out < 1")
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)

    @jax.jit
    def fit_padded(key: Array, x: Array, y: Array) -> EnsemblePosterior:
        data = observe(x, y)
        key_split, key_members = jax.random.split(key)
        train = data.mask * (1 - _held_out(key_split, data.mask, held_out))
        one = lambda k: _train(k, data, train, hidden, optimizer, steps, noise_floor)  # noqa: E731
        params = jax.vmap(one)(jax.random.split(key_members, members))
        mean, std = _mixture(params, data.x, noise_floor)
        test = data.mask - train
        squared = (((data.y - mean) / std) ** 2 * test).sum() / jnp.maximum(test.sum(), 1)
        return EnsemblePosterior(data, params, jnp.where(squared > 0, jnp.sqrt(squared), 1))

    def fit(key: Array, x: Array, y: Array) -> EnsemblePosterior:
        return fit_padded(key, *pad(x, y, capacity))

    def predict(posterior: EnsemblePosterior, x: Array) -> Estimate:
        data = posterior.data
        valid = jnp.isfinite(x).all(-1)
        x = (jnp.where(valid[:, None], x, data.x_mean[None, :]) - data.x_mean[None, :]) / data.x_std[None, :]
        mean, std = _mixture(posterior.params, x, noise_floor)
        value = jnp.where(valid, mean * data.y_std + data.y_mean, data.y_mean)
        return Estimate(value, std * data.y_std * posterior.temperature, valid)

    return Surrogate(fit, predict)


def _held_out(key: Array, mask: Array, share: float) -> Array:
    """A random `share` of the rows that count: 1 where held out."""
    order = jnp.where(mask > 0, jax.random.uniform(key, mask.shape, mask.dtype), 2).argsort().argsort()
    return (order < jnp.floor(share * mask.sum()).astype(jnp.int32)).astype(mask.dtype)


def _train(key, data: Observations, weight: Array, hidden, optimizer, steps: int, floor: float) -> Params:
    """One member: `steps` full-batch steps on the rows with weight 1."""

    def loss(params):
        mean, variance = _forward(params, data.x, floor)
        nll = 0.5 * (data.y - mean) ** 2 / variance + 0.5 * jnp.log(variance)
        return (nll * weight).sum() / jnp.maximum(weight.sum(), 1)

    def step(carry, _):
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax itself mixes integer counts and floats
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = _init(key, (data.x.shape[-1], *hidden, 2))
    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]


def _init(key: Array, sizes: tuple[int, ...]) -> Params:
    """LeCun normal weights, zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    weights = [jax.random.normal(k, (i, o)) / jnp.sqrt(1.0 * i) for k, i, o in zip(keys, sizes, sizes[1:])]
    return [(w, jnp.zeros(w.shape[1])) for w in weights]


def _forward(params: Params, x: Array, floor: float) -> tuple[Array, Array]:
    """Mean and variance of one member: (q, d) -> two (q,)."""
    for i, (weight, bias) in enumerate(params):
        x = x @ weight + bias[None, :]
        x = jax.nn.silu(x) if i < len(params) - 1 else x
    return x[:, 0], jax.nn.softplus(x[:, 1]) + floor**2


def _mixture(params: Params, x: Array, floor: float) -> tuple[Array, Array]:
    """Mean, and std = sqrt(epistemic + aleatoric variance), over members."""
    mean, variance = jax.vmap(lambda p: _forward(p, x, floor))(params)
    return mean.mean(0), jnp.sqrt(mean.var(0) + variance.mean(0))

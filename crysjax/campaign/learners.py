"""What learns from outcomes: `surrogate: NAME`, with `surrogate.KEY` for the settings of its factory.

All regress z = (validated - m) / s on the heads' features, for the law in `campaign/predictive.py`, whose prior is
z ~ N(0, 1). A factory takes the number of outcomes that there can be and answers a `Surrogate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp
from jax import Array

from crysjax.base import Estimate, Surrogate
from crysjax.surrogates import deep_ensemble as deep_ensembles
from crysjax.surrogates import gp as gaussian_processes


def gp(
    capacity: int, *, kernel: Literal["matern52", "rbf"] = "matern52", ard: bool = False,
    inference: Literal["map", "normal", "nuts"] = "map", steps: int = 300, warmup: int = 200, samples: int = 32,
    chains: int = 4, learning_rate: float = 0.05, noise_scale: float = 0.1,
) -> Surrogate:  # fmt: skip
    """A Gaussian process with the heads' law as its prior: far from all outcomes it says what the heads say.

    Args:
        kernel: covariance of two crystals by the distance of their features.
        ard: one length scale for each feature.
        inference: how its hyper-parameters are found: the most probable ones, a normal law, or NUTS.
        steps: steps of the optimizer.
        warmup: steps of NUTS before its draws.
        samples: draws of the hyper-parameters that are kept.
        chains: chains of NUTS.
        learning_rate: learning rate of the optimizer.
        noise_scale: median of the prior of the noise.
    """
    return gaussian_processes.gp(
        kernel=kernel, ard=ard, inference=inference, capacity=capacity, steps=steps, warmup=warmup, samples=samples,
        chains=chains, learning_rate=learning_rate, noise_scale=noise_scale, unit_prior=True, observed=True,
    )  # fmt: skip


def deep_ensemble(
    capacity: int, *, members: int = 8, hidden: tuple[int, ...] = (64, 64), steps: int = 500,
    learning_rate: float = 3e-3, weight_decay: float = 1e-4, held_out: float = 0.2,
) -> Surrogate:  # fmt: skip
    """Small networks with learned noise; far from all outcomes they do not return to what the heads say.

    Args:
        members: number of networks.
        hidden: widths of their layers.
        steps: steps of training.
        learning_rate: learning rate of training.
        weight_decay: weight decay of training.
        held_out: share of the outcomes that the standard deviation is calibrated on.
    """
    for name, value in {"members": members, "steps": steps}.items():
        if value < 1:
            raise ValueError(f"{name}: {value}; expected a whole number from 1 on")
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden: {list(hidden)}; expected widths from 1 on")
    return deep_ensembles.deep_ensemble(
        members=members, hidden=tuple(hidden), steps=steps, learning_rate=learning_rate, weight_decay=weight_decay,
        held_out=held_out, capacity=capacity,
    )  # fmt: skip


def none(capacity: int) -> Surrogate:
    """Nothing is learned: predictions stay those of the heads."""

    def fit(key: Array, x: Array, y: Array) -> Array:
        return jnp.zeros(1, x.dtype)

    def predict(posterior: Array, x: Array) -> Estimate:
        return Estimate(jnp.zeros_like(x[:, 0]), jnp.ones_like(x[:, 0]), jnp.zeros(len(x), bool))

    return Surrogate(fit, predict)


SURROGATES: Mapping[str, Callable[..., Surrogate]] = {"gp": gp, "deep_ensemble": deep_ensemble, "none": none}
"""What `surrogate` may be."""

"""What an uncertain candidate is worth: `acquisition: NAME`, with `acquisition.KEY` for the settings of its factory.

A factory answers `(goals, estimate, best) -> (b,)`: values with standard deviations (b, k), and the best outcome so far
of the sum of what is minimized. Higher is better, and the scale is a logarithm: two candidates that are alike share
their worth (`surrogates.acquisition.select_batch`). A new one is a factory here and a row in `ACQUISITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from crysjax.base import Estimate
from crysjax.campaign.goals import Goals, in_range, lower_ends
from crysjax.surrogates import acquisition

Acquisition = Callable[[Goals, Estimate, Array], Array]


def expected_improvement(*, exploration: float = 1.0) -> Acquisition:
    """Probability of every window times the expected improvement of the sum of what is minimized or maximized.

    Args:
        exploration: factor of the standard deviations; 0 chooses by the mean alone.
    """
    return _windows_and(acquisition.log_expected_improvement, exploration)


def improvement_probability(*, exploration: float = 1.0) -> Acquisition:
    """Probability of every window times that of any improvement, however small.

    Args:
        exploration: factor of the standard deviations; 0 chooses by the mean alone.
    """
    return _windows_and(acquisition.log_improvement_probability, exploration)


def window_probability(*, exploration: float = 1.0) -> Acquisition:
    """Probability of every window alone; what is minimized or maximized has no say.

    Args:
        exploration: factor of the standard deviations; 0 chooses by the mean alone.
    """
    return _windows_and(None, exploration)


def lower_bound(*, exploration: float = 2.0) -> Acquisition:
    """How low the objective may be, in units of the properties' spreads: the optimist's choice.

    Args:
        exploration: number of standard deviations below the mean that scores a candidate; negative ones are cautious.
    """
    _finite("exploration", exploration)
    return _bound(acquisition.lower_bound, exploration)


def upper_bound(*, caution: float = 2.0) -> Acquisition:
    """How low the objective will be even if predictions err: the cautious choice.

    Args:
        caution: number of standard deviations by which every prediction is taken to be wrong for the worse.
    """
    if not 0 <= caution < math.inf:
        raise ValueError(f"caution: {caution}; expected a finite number from 0 on; optimism is lower_bound's")
    return _bound(lambda mean, std, beta: acquisition.upper_bound(mean, std, -beta), -caution)


ACQUISITIONS: Mapping[str, Callable[..., Acquisition]] = {
    "expected_improvement": expected_improvement, "improvement_probability": improvement_probability,
    "window_probability": window_probability, "lower_bound": lower_bound, "upper_bound": upper_bound,
}  # fmt: skip
"""What `acquisition` may be."""


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name}: {value}; expected a finite number")


def _windows_and(improvement: Callable | None, exploration: float) -> Acquisition:
    """The log-probability of every window (independent Gaussians, censored at the least value), and an improvement.

    A weight w of a window counts its probability as the power p^w.
    """
    _finite("exploration", exploration)
    if exploration < 0:
        raise ValueError(
            f"exploration: {exploration}; expected a number from 0 on; for caution, acquisition: upper_bound, or "
            "lower_bound with exploration below 0"
        )

    def worth(goals: Goals, estimate: Estimate, best: Array) -> Array:
        std = _spread(goals, estimate, exploration)
        inside = acquisition.log_window_probability(estimate.value, std, lower_ends(goals)[None], goals.high[None])
        windowed = jnp.where(goals.sign[None] == 0, goals.weight[None] * inside, 0.0).sum(-1)
        if improvement is None or not goals.sign.any():
            return windowed
        mean, spread = _sum(goals, estimate.value, std)
        return windowed + improvement(mean, jnp.maximum(spread, 1e-6), best)

    return worth


def _bound(bound: Callable[[Array, Array, float], Array], beta: float) -> Acquisition:
    """Minus a bound of the objective: each window is missed by what `beta` standard deviations leave, plus the sum."""

    def worth(goals: Goals, estimate: Estimate, best: Array) -> Array:
        std = _spread(goals, estimate, 1.0)
        value, reach = estimate.value, beta * std
        most, least = in_range(goals, value + reach), in_range(goals, value - reach)
        miss = jnp.maximum(lower_ends(goals)[None] - most, least - goals.high[None])
        missed = jnp.where(goals.sign[None] == 0, jnp.maximum(miss, 0) / goals.unit[None], 0.0).sum(-1)
        return bound(*_sum(goals, value, std), beta) - missed

    return worth


def _spread(goals: Goals, estimate: Estimate, exploration: float) -> Array:
    factor = jnp.asarray(exploration, estimate.std.dtype)
    return jnp.maximum(estimate.std * factor, 1e-3 * goals.scale[None])


def _sum(goals: Goals, value: Array, std: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (b,) of the sum of what is minimized or maximized, in units of the scale."""
    slope = jnp.asarray(goals.sign / goals.unit)[None]
    return (slope * in_range(goals, value)).sum(-1), jnp.sqrt(jnp.square(slope * std).sum(-1))

"""A target as numbers: goals of properties, what is minimized, and the probability that it is met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.campaign.density_target import DENSITY
from crysjax.config import choice
from crysjax.predictors import ranges


class Goal(NamedTuple):
    """What one property should be: inside a window (either side may be open), or as low or as high as possible."""

    kind: str  # "window", "minimise" or "maximise": the spelling of states and summaries; plans may use either
    low: float = -math.inf
    high: float = math.inf
    weight: float = 1.0  # of its share of the objective


class Goals(NamedTuple):
    """Target properties in the order of the heads' columns that they are read from, in units of `scale`."""

    names: tuple[str, ...]
    column: np.ndarray  # (k,) int: their columns in the heads
    low: np.ndarray  # (k,) windows; infinite for what is minimized or maximized
    high: np.ndarray
    sign: np.ndarray  # (k,) +1 minimise, -1 maximise, 0 window
    scale: np.ndarray  # (k,) the spread of each property in the heads' training data
    least: np.ndarray  # (k,) the least value that a property can take; -inf where there is none
    weight: np.ndarray  # (k,) of each property's share of the objective

    @property
    def unit(self) -> np.ndarray:
        """What counts as 1 in the objective: the spread over the weight, (k,)."""
        return self.scale / self.weight


def goals(target: dict[str, Goal], names: Sequence[str], scale: Sequence[float]) -> Goals:
    """The target in terms of the properties `names` that the heads predict; an unknown one is an error."""
    for name in target:
        if name not in names:
            known = choice(name, dict.fromkeys((*names, DENSITY)))
            raise ValueError(f"target.{name}: the heads do not predict it; expected {known}")
    column = np.array([list(names).index(name) for name in target])
    sign = {"window": 0.0, "minimise": 1.0, "maximise": -1.0}
    fields = zip(*((goal.low, goal.high, sign[goal.kind]) for goal in target.values()))
    low, high, signs = (np.array(values, np.float32) for values in fields)
    least = np.array([ranges.least(name) for name in target], np.float32)
    weight = np.array([goal.weight for goal in target.values()], np.float32)
    return Goals(tuple(target), column, low, high, signs, np.asarray(scale, np.float32)[column], least, weight)


def in_range(goals: Goals, values: Array) -> Array:
    """Values (..., k) no lower than a property can be."""
    xp = np if isinstance(values, np.ndarray) else jnp
    return xp.maximum(values, goals.least.reshape((1,) * (values.ndim - 1) + (-1,)))


def lower_ends(goals: Goals) -> np.ndarray:
    """Lower ends (k,) of the windows for a Gaussian that is censored at the least value: open where that is inside."""
    return np.where(goals.low <= goals.least, -np.inf, goals.low).astype(np.float32)


def misses(goals: Goals, values: Array) -> Array:
    """How far values (..., k) lie outside their windows, in weighted units; 0 for what has no window."""
    xp = np if isinstance(values, np.ndarray) else jnp
    shape = (1,) * (values.ndim - 1) + (-1,)
    low, high, unit = (a.reshape(shape) for a in (goals.low, goals.high, goals.unit))
    return xp.maximum(xp.maximum(low - values, values - high), 0) / unit


def objective(goals: Goals, values: Array) -> Array:
    """What is minimized: distances outside the windows, plus what shall be low, minus what shall be high.

    Values (..., k) in the order of the goals -> (...). Everything counts in units of the property's spread, times its
    weight.
    """
    shape = (1,) * (values.ndim - 1) + (-1,)
    sign, unit = (a.reshape(shape) for a in (goals.sign, goals.unit))
    return (misses(goals, values) + sign * values / unit).sum(-1)


def meets(goals: Goals, values: np.ndarray) -> np.ndarray:
    """Whether values (..., k) lie inside every window."""
    return ((values >= goals.low) & (values <= goals.high)).all(-1)


def hit_probability(goals: Goals, values: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Probability (...) that uncertain values (..., k) lie inside every window; NaN where the target has no window.

    Properties are independent Gaussians, censored at the least value that each can take: `values` are their means
    before that and may lie below it. A std that is 0 or unknown makes a certain value.
    """
    from scipy.special import ndtr

    window = goals.sign == 0
    if not window.any():
        return np.full(values.shape[:-1], np.nan)
    value, certain = np.asarray(values, np.float64), ~(np.asarray(std) > 0)
    spread = np.where(certain, 1.0, std)
    inside = ndtr((goals.high - value) / spread) - ndtr((lower_ends(goals) - value) / spread)
    shown = in_range(goals, value)
    exact = (shown >= goals.low) & (shown <= goals.high)
    inside = np.where(goals.high < goals.least, 0.0, np.where(certain, exact, inside))
    return np.where(window, inside, 1.0).prod(-1)


def wanted(goals: Goals, names: Sequence[str], center: Sequence[float], scale: Sequence[float]) -> np.ndarray:
    """Condition values (k,) for a generator with properties `names`: the middle of a window, or 1.5 spreads down or up.

    A half-open window asks for a spread inside its bound; what the target does not speak of is NaN.
    """
    asked = np.full(len(names), np.nan, np.float32)
    for i, (name, mean, spread) in enumerate(zip(names, center, scale)):
        if name not in goals.names:
            continue
        k = goals.names.index(name)
        low, high, sign = float(goals.low[k]), float(goals.high[k]), float(goals.sign[k])
        if sign:
            asked[i] = mean - 1.5 * sign * spread
        elif np.isfinite(low) and np.isfinite(high):
            asked[i] = (low + high) / 2
        else:
            asked[i] = low + spread if np.isfinite(low) else high - spread
    return asked

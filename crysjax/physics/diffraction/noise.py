"""What noise alone leaves unexplained in a powder pattern: the expected profile factor, and how far it scatters.

    R_exp² = Σ_g w σ² (N - terms - 1) / N / Σ_g w y²,   y without its background, as in `misfit.factor`

(Young, The Rietveld Method (1993), ch. 1, where w = 1 / σ², net of the background). For N independent points of normal
noise a model that is right has (R_wp / R_exp)² of mean 1 and standard deviation √(2 / N).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from crysjax.physics.diffraction import background
from crysjax.physics.diffraction.misfit import weights

_DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0])  # the fourth: what is smooth over five points leaves little
_MEDIAN = 0.4549  # of the square of a standard normal number
_SAMPLED = 5  # points over a peak's width, from which differences tell noise from peaks
SIGMAS = 3.0  # by which a right model may exceed the expected factor


class Expected(NamedTuple):
    """Profile factors that a right model has."""

    rwp: float  # by noise alone; 0 where no noise is known
    limit: float  # `SIGMAS` standard deviations above it


def expected(x: np.ndarray, y: np.ndarray, width_degree: float, terms: int = 0) -> Expected:
    """Of a pattern (g,) with peaks of at least this width and a background of `terms`."""
    weight, n = weights(y), len(y)
    net = background.without(y, weight, background.basis(x, weight, terms)) if terms else y
    free = max(n - terms - 1, 1) / n
    rwp = math.sqrt(free * (weight * variance(x, y, width_degree)).sum() / (weight * net**2).sum())
    return Expected(min(rwp, 1.0), min(rwp * (1 + SIGMAS / math.sqrt(2 * n)), 1.0))


def variance(x: np.ndarray, y: np.ndarray, width_degree: float) -> np.ndarray:
    """Of each point (g,): the number counted where intensities are counts, else by differences of neighbors.

    Counts are whole numbers that scatter at least half as much as counts do: a pattern that was calculated and rounded
    does not. Else the variance is taken as proportional to 1 / weight, as of scaled counts, by the median of squared
    fourth differences; 0 where peaks have fewer than `_SAMPLED` points and differences would show them instead.
    """
    if len(y) < 2 * len(_DIFFERENCE):
        return np.zeros(len(y))
    weight = weights(y)
    squares = np.convolve(y, _DIFFERENCE, "valid") ** 2 * weight[2:-2]
    scale = float(np.median(squares)) / ((_DIFFERENCE**2).sum() * _MEDIAN)
    if (y == np.round(y)).all() and scale >= 0.5:
        return y
    return scale / weight if np.median(np.diff(x)) <= width_degree / _SAMPLED else np.zeros(len(y))

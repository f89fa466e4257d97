"""What a measured powder pattern has besides its peaks: a smooth background, and a zero shift of all angles.

A background is a sum of few Chebyshev polynomials. Being linear, it is fitted together with the scale in closed form:
what it can explain is taken off data and model alike (a projection under the weights), and the profile factor is that
of the rest. The zero shift follows, where the cell is known, from the angles alone: the one by which peaks of any
intensities explain the pattern best (Pawley, J. Appl. Cryst. 14, 357 (1981), with intensities from 0 on).
"""

from __future__ import annotations

import numpy as np
from jax import Array

from crysjax.physics.diffraction.pattern import Shape, peak_shapes

FARTHEST_DEGREE = 0.3  # a zero shift beyond it is a fault of the instrument
MOST_PEAKS = 200  # of the lowest angles: what a zero shift is found by


def basis(x: np.ndarray, weight: np.ndarray, terms: int) -> np.ndarray:
    """The first `terms` Chebyshev polynomials over a grid (g,), orthonormal under the weights: (g, terms)."""
    root = np.sqrt(weight)[:, None]
    place = 2 * (x - x[0]) / (x[-1] - x[0]) - 1
    columns = np.polynomial.chebyshev.chebvander(place, max(terms - 1, 0))[:, :terms]
    return np.linalg.qr(root * columns)[0] / root


def without(values: Array, weight: Array, found: Array) -> Array:
    """Profiles (..., g) less what the `basis` explains of them by weighted least squares."""
    return values - ((values * weight) @ found) @ found.T


def zero_shift(
    angles: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray, shape: Shape, terms: int, step: float
) -> float:
    """By how many degrees a pattern (g,) is shifted to higher 2θ, up to `FARTHEST_DEGREE`.

    Args:
        angles: where the cell has reflections, degrees.
        weight: (g,) of the points.
        shape: of the peaks; `step` a fraction of their width, by which shifts are tried before the best is refined.
    """
    from scipy.optimize import minimize_scalar, nnls

    angles = np.unique(angles[angles > x[0] - 1].round(3))[: MOST_PEAKS + 1]
    if len(angles) > MOST_PEAKS:
        part = x < angles[-1]
        angles, x, y, weight = angles[:-1], x[part], y[part], weight[part]
    found, root = basis(x, weight, terms), np.sqrt(weight)
    seen = root * without(y, weight, found)

    def rest(shift: float) -> float:
        peaks = peak_shapes(angles + shift, x, shape)
        return nnls((root * without(peaks, weight, found)).T, seen, maxiter=30 * len(angles))[1]

    trial = np.arange(-FARTHEST_DEGREE, FARTHEST_DEGREE + step / 2, step)
    near = trial[np.argmin([rest(shift) for shift in trial])]
    return float(minimize_scalar(rest, bounds=(near - step, near + step), options={"xatol": 1e-4}).x)

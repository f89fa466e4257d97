"""Monotone rational-quadratic splines: on the unit interval, round the circle, and on the line with identity tails.

Durkan et al., "Neural Spline Flows", NeurIPS 2019, equations 4 to 8; the circle as in Rezende et al., "Normalizing
Flows on Tori and Spheres", ICML 2020: the slope at 1 is the slope at 0, and a free phase follows, so that no point
stays fixed. Both directions are closed forms; raw parameters of zero are the identity.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.geometry import torus

SMALLEST_BIN = 1e-3
SMALLEST_SLOPE = 1e-3
_UNIT_SLOPE = math.log(math.expm1(1 - SMALLEST_SLOPE))  # softplus of it and the smallest slope make 1


def circle_size(bins: int) -> int:
    """Raw numbers that `circle` takes: widths, heights, slopes, and one phase."""
    return 3 * bins + 1


def line_size(bins: int) -> int:
    """Raw numbers that `line` takes: widths, heights, and the slopes between bins."""
    return 3 * bins - 1


def circle(x: Array, raw: Array, *, inverse: bool = False) -> tuple[Array, Array]:
    """A diffeomorphism of the circle R/Z: (...), (..., 3 bins + 1) -> values in [0, 1] and log|dy/dx|, both (...)."""
    bins = raw.shape[-1] // 3
    widths, heights, slopes, phase = jnp.split(raw, [bins, 2 * bins, 3 * bins], -1)
    slopes = jnp.concatenate([slopes, slopes[..., :1]], -1)
    knots = _shares(widths), _shares(heights), _slopes(slopes)
    if inverse:
        return rational_quadratic(torus.wrap(x - phase[..., 0]), *knots, inverse=True)
    y, log_slope = rational_quadratic(torus.wrap(x), *knots)
    return torus.wrap(y + phase[..., 0]), log_slope


def line(x: Array, raw: Array, *, bound: float = 5.0, inverse: bool = False) -> tuple[Array, Array]:
    """A diffeomorphism of the line, the identity beyond +-`bound`: (...), (..., 3 bins - 1) -> (...) twice."""
    bins = (raw.shape[-1] + 1) // 3
    widths, heights, slopes = jnp.split(raw, [bins, 2 * bins], -1)
    ends = jnp.ones_like(raw[..., :1])
    slopes = jnp.concatenate([ends, _slopes(slopes), ends], -1)
    inside = jnp.abs(x) < bound
    unit = (jnp.where(inside, x, 0) + bound) / (2 * bound)
    y, log_slope = rational_quadratic(unit, _shares(widths), _shares(heights), slopes, inverse=inverse)
    return jnp.where(inside, 2 * bound * y - bound, x), jnp.where(inside, log_slope, 0)


def rational_quadratic(
    x: Array, widths: Array, heights: Array, slopes: Array, *, inverse: bool = False
) -> tuple[Array, Array]:
    """The spline of [0, 1] onto itself through given knots, or its inverse.

    Args:
        x: (...) values in [0, 1].
        widths, heights: (..., k) positive, each summing to 1.
        slopes: (..., k + 1) positive derivatives at the knots.

    Returns:
        y, log|dy/dx|, both (...).
    """
    lefts, bottoms = (jnp.cumsum(v, -1) - v for v in (widths, heights))
    starts = bottoms if inverse else lefts
    chosen = jnp.sum(x[..., None] >= starts[..., 1:], -1)[..., None]

    def at(table: Array) -> Array:
        return jnp.take_along_axis(table, chosen, -1)[..., 0]

    w, h, left, bottom = at(widths), at(heights), at(lefts), at(bottoms)
    d0, d1 = at(slopes[..., :-1]), at(slopes[..., 1:])
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:
        rise = x - bottom  # eq. 6-8; this form of the root loses no digits
        a, b, c = h * (s - d0) + rise * bend, h * d0 - rise * bend, -s * rise
        u = 2 * c / (-b - jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0)))
    else:
        u = (x - left) / w
    u = jnp.clip(u, 0, 1)  # rounding at the knots
    down = s + bend * u * (1 - u)
    slope = s * s * (d1 * u * u + 2 * s * u * (1 - u) + d0 * (1 - u) ** 2) / (down * down)  # eq. 5
    if inverse:
        return left + u * w, -jnp.log(slope)
    return bottom + h * (s * u * u + d0 * u * (1 - u)) / down, jnp.log(slope)  # eq. 4


def _shares(raw: Array) -> Array:
    """Positive, summing to 1, none below the smallest bin."""
    bins = raw.shape[-1]
    return SMALLEST_BIN + (1 - SMALLEST_BIN * bins) * jax.nn.softmax(raw, -1)


def _slopes(raw: Array) -> Array:
    return SMALLEST_SLOPE + jax.nn.softplus(raw + _UNIT_SLOPE)

"""What surrogates are fitted to: standardized rows in a buffer of fixed capacity, so growing data never recompiles."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.data import scales


class Observations(NamedTuple):
    """Standardized data; rows with `mask` 0 are empty and hold zeros."""

    x: Array  # (capacity, d)
    y: Array  # (capacity,)
    mask: Array  # (capacity,) 1 where a row counts
    x_mean: Array  # (d,)
    x_std: Array  # (d,)
    y_mean: Array  # ()
    y_std: Array  # ()


def pad(x: Array, y: Array, capacity: int | None) -> tuple[Array, Array]:
    """Fill up to `capacity` rows; an added row has y = NaN, which means "not observed".

    A value that sets a scale on which float32 cannot tell the others apart is an error that names it.
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"surrogate: x has shape {x.shape} and y {y.shape}; expected (m, d) and (m,)")
    extra = 0 if capacity is None else capacity - x.shape[0]
    if extra < 0:
        raise ValueError(f"surrogate: {x.shape[0]} rows do not fit into capacity={capacity}; raise the capacity")
    _check(x, y)
    return jnp.pad(x, ((0, extra), (0, 0))), jnp.pad(y, (0, extra), constant_values=jnp.nan)


def _check(x: Array, y: Array) -> None:
    """An error for a y that alone sets the scale of all; inside a compiled program there is nothing to look at yet."""
    if isinstance(x, jax.core.Tracer) or isinstance(y, jax.core.Tracer):
        return
    rows = np.flatnonzero(np.isfinite(np.asarray(y)) & np.isfinite(np.asarray(x)).all(-1))
    if len(rows):
        scales.moments(np.asarray(y)[rows], "surrogate: y", np.array([f"row {k + 1}" for k in rows]))


def observe(x: Array, y: Array, standardize: bool = True, standardize_y: bool = True) -> Observations:
    """Mask rows whose y (or any feature) is not finite, and standardize the rest by their own mean and std.

    Without `standardize` nothing is standardized, without `standardize_y` the features alone.
    """
    mask = (jnp.isfinite(y) & jnp.isfinite(x).all(-1)).astype(x.dtype)
    x, y = jnp.where(mask[:, None] > 0, x, 0), jnp.where(mask > 0, y, 0)
    x_mean, x_std = _moments(x, mask[:, None])
    y_mean, y_std = _moments(y, mask)
    if not standardize:
        x_mean, x_std, y_mean, y_std = (f(a) for f, a in zip((jnp.zeros_like, jnp.ones_like) * 2,
                                                             (x_mean, x_std, y_mean, y_std)))  # fmt: skip
    elif not standardize_y:
        y_mean, y_std = jnp.zeros_like(y_mean), jnp.ones_like(y_std)
    scaled_x = (x - x_mean[None, :]) / x_std[None, :] * mask[:, None]
    return Observations(scaled_x, (y - y_mean) / y_std * mask, mask, x_mean, x_std, y_mean, y_std)


def _moments(values: Array, mask: Array) -> tuple[Array, Array]:
    """Mean and std over the first axis; a constant (or a single row) has std 1, so that it stays at zero.

    Sums are taken in units of about the largest magnitude, because float32 squares overflow from 2e19 on.
    """
    _, exponent = jnp.frexp(jnp.abs(values * mask).max(0))
    unit = jnp.ldexp(jnp.ones_like(exponent, values.dtype), exponent - 1)  # a power of two: nothing is rounded
    count = jnp.maximum(mask.sum(), 1)
    unit_rows = unit[None, :] if values.ndim == 2 else unit
    small = values / unit_rows * mask
    mean = small.sum(0) / count
    centered = (small - (mean[None, :] if values.ndim == 2 else mean)) * mask
    mean, std = mean * unit, jnp.sqrt((centered**2).sum(0) / count) * unit
    return mean, jnp.where(std > 1e-6 * (1 + abs(mean)), std, 1)

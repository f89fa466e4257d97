"""The flat torus of fractional coordinates: wrapping, the shortest way round, and the wrapped normal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def wrap(frac: Array) -> Array:
    """Fractional coordinates in [0, 1), any shape; the derivative is that of the identity."""
    return frac - jax.lax.stop_gradient(jnp.floor(frac))


def log(difference: Array) -> Array:
    """The shortest representative of a fractional difference, each component in [-1/2, 1/2].

    This is the logarithm map of the torus with the product metric of the unit cube; the shortest *Cartesian* vector
    of a skewed cell is `minimum_image`.
    """
    return difference - jax.lax.stop_gradient(jnp.round(difference))


def wrapped_normal_log_prob(x: Array, sigma: Array, images: int = 3) -> Array:
    """Log-density of N(0, sigma^2) wrapped onto the unit circle, summed over `2 images + 1` windings.

    Exact to float32 rounding for sigma <= 1 with 3 images on each side.
    """
    winding = jnp.arange(-images, images + 1, dtype=x.dtype).reshape((-1,) + (1,) * x.ndim)
    exponent = -0.5 * jnp.square((log(x)[None] + winding) / sigma)
    return jax.nn.logsumexp(exponent, axis=0) - jnp.log(sigma * jnp.sqrt(2 * jnp.pi).astype(x.dtype))


def wrapped_normal_score(x: Array, sigma: Array, images: int = 3) -> Array:
    """d/dx of `wrapped_normal_log_prob` (DiffCSP, Jiao et al. 2023, eq. 9), as a weighted mean over windings."""
    winding = jnp.arange(-images, images + 1, dtype=x.dtype).reshape((-1,) + (1,) * x.ndim)
    lifted = log(x)[None] + winding
    weight = jax.nn.softmax(-0.5 * jnp.square(lifted / sigma), axis=0)
    return -(weight * lifted).sum(0) / jnp.square(sigma)

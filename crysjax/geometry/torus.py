"""The flat torus of fractional coordinates: wrapping, the shortest way round, and the wrapped normal."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.geometry import lattice as lattices
from crysjax.geometry.reduction import niggli

AROUND = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(27, 3)
"""The cell and its 26 neighbors: enough for what is nearest in a reduced cell to a difference wrapped by `log`."""


def wrap(frac: Array) -> Array:
    """Fractional coordinates in [0, 1), any shape; the derivative is that of the identity."""
    return frac - jax.lax.stop_gradient(jnp.floor(frac))


def log(difference: Array) -> Array:
    """The shortest representative of a fractional difference, each component in [-1/2, 1/2].

    This is the logarithm map of the torus with the product metric of the unit cube; the shortest *Cartesian* vector
    of a skewed cell is `minimum_image`.
    """
    return difference - jax.lax.stop_gradient(jnp.round(difference))


def minimum_image(difference: Array, lattice: Array) -> Array:
    """The shortest Cartesian vector, in Å, between all periodic images of a fractional difference.

    (..., 3), (..., 3, 3) -> (..., 3), exact for any cell: in the Niggli cell, whose vectors are the shortest three,
    the nearest lattice point is among the 27 around the rounded one. Differentiable in both arguments.
    """
    reduced, change = niggli(lattice)
    frac = log(jnp.einsum("...i,...ij->...j", difference, lattices.inverse(change)))
    home = jnp.einsum("...i,...ij->...j", frac, reduced)
    vectors = home[..., None, :] + jnp.einsum("mi,...ij->...mj", jnp.asarray(AROUND, home.dtype), reduced)
    nearest = jnp.argmin(jnp.square(vectors).sum(-1), -1)
    return jnp.take_along_axis(vectors, nearest[..., None, None], -2)[..., 0, :]


def distance(difference: Array, lattice: Array) -> Array:
    """Length in Å of `minimum_image`; the derivative at zero is zero: (..., 3), (..., 3, 3) -> (...)."""
    squared = jnp.square(minimum_image(difference, lattice)).sum(-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def wrapped_normal_log_prob(x: Array, sigma: Array, images: int = 3) -> Array:
    """Log-density of N(0, sigma^2) wrapped onto the unit circle, summed over `2 images + 1` windings.

    Exact to float32 rounding for sigma <= 0.6 with 3 images on each side, for sigma <= 1 with 5.
    """
    winding = jnp.arange(-images, images + 1, dtype=x.dtype).reshape((-1,) + (1,) * x.ndim)
    sigma = jnp.broadcast_to(sigma, x.shape)
    exponent = -0.5 * jnp.square((log(x)[None] + winding) / sigma[None])
    return jax.nn.logsumexp(exponent, axis=0) - jnp.log(sigma) - 0.5 * math.log(2 * math.pi)


def wrapped_normal_score(x: Array, sigma: Array, images: int = 3) -> Array:
    """d/dx of `wrapped_normal_log_prob` (DiffCSP, Jiao et al. 2023, eq. 9), as a weighted mean over windings."""
    winding = jnp.arange(-images, images + 1, dtype=x.dtype).reshape((-1,) + (1,) * x.ndim)
    sigma = jnp.broadcast_to(sigma, x.shape)
    lifted = log(x)[None] + winding
    weight = jax.nn.softmax(-0.5 * jnp.square(lifted / sigma[None]), axis=0)
    return -(weight * lifted).sum(0) / jnp.square(sigma)

"""Mixtures of von Mises distributions of a fractional coordinate: density and exact draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

CONCENTRATIONS = (0.05, 4000.0)
"""Least and largest concentration: nearly uniform, and a standard deviation of 0.0025 cell lengths."""


def concentration(raw: Array) -> Array:
    """A concentration within the limits, of any real number."""
    low, high = (jnp.log(jnp.asarray(c, raw.dtype)) for c in CONCENTRATIONS)
    return jnp.exp(low + (high - low) * jax.nn.sigmoid(raw))


def log_prob(x: Array, logits: Array, center: Array, kappa: Array) -> Array:
    """Log-density over [0, 1) at x (...) of a mixture with components along the last axis, (..., m) -> (...)."""
    turn = 2 * jnp.pi * (x[..., None] - center)
    each = kappa * (jnp.cos(turn) - 1) - jnp.log(jax.scipy.special.i0e(kappa))
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, -1)


def draw(key: Array, kappa: Array) -> Array:
    """A draw around zero, in [-1/2, 1/2], of one von Mises distribution: () -> () (Best & Fisher 1979).

    Rejection from a wrapped Cauchy distribution; at least two in three proposals are accepted.
    """
    kappa = jax.lax.stop_gradient(kappa)
    tau = 1 + jnp.sqrt(1 + 4 * kappa**2)
    # (tau - sqrt(2 tau)) / (2 kappa) without the cancellation
    rho = (tau - 2) * tau / (2 * kappa * (tau + jnp.sqrt(2 * tau)))
    s = (1 + rho**2) / (2 * rho)

    def propose(state: tuple) -> tuple:
        key, _, _ = state
        key, here = jax.random.split(key)
        u = jax.random.uniform(here, (3,), kappa.dtype, minval=jnp.finfo(kappa.dtype).tiny)
        z = jnp.cos(jnp.pi * u[0])
        w = (1 + s * z) / (s + z)
        y = kappa * (s - w)
        accepted = (y * (2 - y) > u[1]) | (jnp.log(y / u[1]) + 1 - y >= 0)
        angle = jnp.sign(u[2] - 0.5) * jnp.arccos(jnp.clip(w, -1, 1))
        return key, angle / (2 * jnp.pi), accepted

    start = (key, jnp.zeros_like(kappa), jnp.array(False))
    return jax.lax.while_loop(lambda state: ~state[2], propose, start)[1]

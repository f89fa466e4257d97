"""The one predictive law of a campaign: what validation will say of a candidate, before it is asked.

Let v be the validated value of a property, m and s the mean and standard deviation that the heads give before
relaxation, and x the features. The heads are the prior of a Gaussian process on v:

    v = m + s (g(x) + e),    g ~ GP(0, k) with k(x, x) = 1,    e ~ N(0, n²).

Before any outcome the variance of v is that of the heads, s², counted once. An outcome enters as z = (v - m) / s; the
surrogate regresses z on x with its amplitude fixed at 1, learning the length scale of k and the noise n from all
outcomes together. With K the kernel matrix of the outcomes and k* the kernel between them and a candidate,

    E v = m + s k*ᵀ (K + n²)⁻¹ z,    Var v = s² (1 - k*ᵀ (K + n²)⁻¹ k* + n²),

and nothing is added to it. Near outcomes that agree with one another, Var v falls to about s² n², far below s²; far
from all outcomes it is s² (1 + n²), that of the heads as long as outcomes scatter less than s. Where they scatter more
than the heads said, n grows, and so does the variance of every candidate. A property with a least value, such as a band
gap, is validated as that value where v lies below it: a Gaussian that is censored there (`goals.hit_probability`).

Where a property is validated by something other than the heads, s² is their variance plus the known error of that
judge (squared): both stand between m and v.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Estimate, Surrogate
from crysjax.campaign.goals import Goals, in_range


class Learned(NamedTuple):
    """What earlier rounds taught: how validated values differ from the heads', and the best outcome."""

    posterior: Any  # of the surrogate, one a target property, stacked
    trust: Array  # () 0: nothing learned yet, 1: use the posterior
    best: Array  # () lowest sum of what is minimized, in units of the scale


def prior(goals: Goals, said: Estimate, judge_error: Array) -> Estimate:
    """m and s of every target property: heads' answers (b, all) -> (b, k), `valid` (b,).

    `judge_error` (k,) is the standard deviation of the error of whatever validates instead of the heads, else 0.
    """
    std = jnp.hypot(said.std[:, goals.column], judge_error[None])
    value = in_range(goals, said.value[:, goals.column])
    return Estimate(value, jnp.maximum(std, 1e-3 * goals.scale[None]), said.valid.all(-1))


def law(surrogate: Surrogate, learned: Learned, prior: Estimate, features: Array) -> Estimate:
    """Mean and standard deviation (b, k) of the Gaussian of v, before it is censored at the least value."""
    z = jax.vmap(surrogate.predict, (0, None), 1)(learned.posterior, features)
    use = (learned.trust > 0) & z.valid
    value = prior.value + prior.std * jnp.where(use, z.value, 0.0)
    return Estimate(value, prior.std * jnp.where(use, z.std, 1.0), prior.valid)


def learn(surrogate: Surrogate, key: Array, features: Array, z: Array, trust: float, best: float) -> Learned:
    """Fit the surrogate to z = (validated - m) / s (rows, k); rows of NaN do not count."""
    keys = jax.random.split(key, z.shape[1])
    fits = [surrogate.fit(k, features, column) for k, column in zip(keys, z.T)]
    posterior = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)
    return Learned(posterior, jnp.asarray(trust, features.dtype), jnp.asarray(best, features.dtype))

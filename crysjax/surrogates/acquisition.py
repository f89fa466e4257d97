"""What an uncertain prediction is worth: improvement, bounds, windows; and which batch to evaluate next.

All functions take Gaussian predictions as mean and std arrays of one shape and are smooth in both. Objectives are
minimized, so "improvement" is downwards; every acquisition is higher for better candidates. The `log_` forms stay
finite and keep a useful gradient where the plain ones underflow to 0 (in float32 beyond about 13 standard deviations).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr, ndtr

HALF_LOG_2PI = 0.9189385332046727


def lower_bound(mean: Array, std: Array, beta: float = 2.0) -> Array:
    """-(mean - beta std): how low the value may be (Srinivas et al. 2010)."""
    return beta * std - mean


def upper_bound(mean: Array, std: Array, beta: float = 2.0) -> Array:
    """-(mean + beta std): how low the value will be even if the prediction errs by beta std; the cautious choice."""
    return -mean - beta * std


def improvement_probability(mean: Array, std: Array, best: Array | float) -> Array:
    """P(y < best)."""
    return ndtr((best - mean) / std)


def log_improvement_probability(mean: Array, std: Array, best: Array | float) -> Array:
    return log_ndtr((best - mean) / std)


def expected_improvement(mean: Array, std: Array, best: Array | float) -> Array:
    """E max(best - y, 0) = std (φ(z) + z Φ(z)), z = (best - mean) / std (Jones et al. 1998, eq. 15)."""
    return std * jnp.exp(_log_h((best - mean) / std))


def log_expected_improvement(mean: Array, std: Array, best: Array | float) -> Array:
    """log of the above; idea of Ament et al. 2023, here with a continued fraction that needs no erfcx."""
    return jnp.log(std) + _log_h((best - mean) / std)


def window_probability(mean: Array, std: Array, low: Array | float, high: Array | float) -> Array:
    """P(low < y < high); either end may be infinite. A window without width has probability 0."""
    return jnp.exp(log_window_probability(mean, std, low, high))


def log_window_probability(mean: Array, std: Array, low: Array | float, high: Array | float) -> Array:
    """log P(low < y < high), accurate in both tails; -inf where low ≥ high."""
    # mirror windows above the mean to below it, where Φ does not round to 1
    a, b = _standardized(low, mean, std), _standardized(high, mean, std)
    above = a + b > 0
    a, b = jnp.where(above, -b, a), jnp.where(above, -a, b)
    empty = b <= a
    upper, lower = log_ndtr(jnp.where(empty, 0.0, b)), log_ndtr(jnp.where(empty, -1.0, a))
    return jnp.where(empty, -jnp.inf, upper + _log1mexp(upper - lower))


def select_batch(log_scores: Array, features: Array, budget: int, length: float) -> Array:
    """Greedily pick `budget` of m candidates, high in score and unlike each other: indices (budget,), best first.

    `log_scores` (m,) is an acquisition on a log scale. After each pick every other candidate's acquisition is
    multiplied by 1 - exp(-d² / 2 length²), d its distance to the pick in `features` (m, d). That is 1 - k with
    an RBF kernel k of this length, a penalty and no probability (the share of a Gaussian process's variance that is
    left after observing the pick is 1 - k²). It is local penalization in the spirit of González et al. 2016, with a
    length-scale for their Lipschitz cone. `length` → 0 gives the plain top scores. Scores that are NaN or -inf come
    last.
    """
    if not 0 < budget <= log_scores.shape[0]:
        raise ValueError(f"select_batch: budget is {budget}; expected 1 to {log_scores.shape[0]}, the candidates")
    floor = jnp.finfo(log_scores.dtype).min / 2
    usable = jnp.maximum(jnp.nan_to_num(log_scores, nan=floor, neginf=floor), floor)

    def pick(carry, _):
        scores, taken = carry
        index = jnp.where(taken, -jnp.inf, scores).argmax()
        distance2 = ((features - features[index][None, :]) ** 2).sum(-1) / (2 * length**2)
        # at the pick itself the logarithm is -inf, which is right, and floored so that twins stay comparable
        scores = jnp.maximum(scores + jnp.log(-jnp.expm1(-distance2)), floor)
        return (scores, taken.at[index].set(True)), index

    taken = jnp.zeros(log_scores.shape, bool)
    return jax.lax.scan(pick, (usable, taken), None, length=budget)[1]


def _standardized(end: Array | float, mean: Array, std: Array) -> Array:
    """(end - mean) / std; an infinite end becomes a large constant, so that its gradient is 0 and not NaN."""
    infinite = jnp.isinf(end)
    return jnp.where(infinite, jnp.sign(end) * 1e9, (jnp.where(infinite, 0.0, end) - mean) / std)


def _log_h(z: Array) -> Array:
    """log(φ(z) + z Φ(z)) to float32 rounding for every z.

    Below z = -1.5, with t = -z and Mills' ratio R(t) = 1/(t + 1/(t + 2/(t + 3/…))), the sum is φ(t) (1 - t R(t)),
    which cancels; as φ(t) K / (t + K) with K = 1/(t + 2/(t + 3/…)) it does not. 40 terms are exact for t ≥ 1.5.
    """
    t = jnp.maximum(-z, 1.5)
    fraction = t
    for term in range(40, 1, -1):
        fraction = t + term / fraction
    tail = -0.5 * t**2 - HALF_LOG_2PI - jnp.log1p(t * fraction)  # K / (t + K) = 1 / (1 + t / K)
    near = jnp.maximum(z, -1.5)
    body = jnp.log(jnp.exp(-0.5 * near**2 - HALF_LOG_2PI) + near * ndtr(near))
    return jnp.where(z < -1.5, tail, body)


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(-x)) for x > 0, switching formula at log 2 (Mächler 2012)."""
    small = x < 0.6931472
    return jnp.where(
        small, jnp.log(-jnp.expm1(-jnp.where(small, x, 1.0))), jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, x)))
    )

"""Acquisitions against scipy in float64, their gradients against finite differences, and the batch rule by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from crysjax.surrogates import acquisition as acq

MEAN = np.array([-1.0, 0.0, 0.3, 2.0])
STD = np.array([0.5, 1.0, 0.1, 3.0])
F32 = 2e-6  # a few roundings


def f32(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def test_expected_improvement_is_the_integral():
    best = 0.2
    exact = [
        stats.norm(m, s).expect(lambda y: best - y, lb=m - 12 * s, ub=best, epsabs=1e-13) for m, s in zip(MEAN, STD)
    ]
    np.testing.assert_allclose(acq.expected_improvement(*f32(MEAN, STD), best), exact, rtol=3e-5, atol=1e-7)


def log_h_exact(z: float) -> float:
    """log(φ(z) + zΦ(z)), z < 0, as log ∫_0^∞ u φ(u - z) du with φ(z) taken out of the integral."""
    integral = integrate.quad(lambda u: u * np.exp(-(u**2) / 2 + u * z), 0, 40 / max(abs(z), 1), epsabs=0, epsrel=1e-12)
    return stats.norm.logpdf(z) + np.log(integral[0])


def test_log_improvement_is_exact_far_into_the_tail():
    z = np.array([-0.5, -1.4, -1.49, -1.51, -2.0, -5.0, -13.0, -50.0, -1000.0])
    got = acq.log_expected_improvement(*f32(-z, np.ones_like(z)), 0.0)
    np.testing.assert_allclose(got, [log_h_exact(v) for v in z], rtol=F32)
    slope = jax.vmap(jax.grad(lambda m: acq.log_expected_improvement(m, 1.0, 0.0)))(f32(-z)[0])
    # d log h / dz = Φ / h, and for the mean the sign is turned
    exact = -np.exp(stats.norm.logcdf(z) - [log_h_exact(v) for v in z])
    np.testing.assert_allclose(slope, exact, rtol=2e-5)


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        mean, std = jnp.asarray(MEAN), jnp.asarray(STD)
        for f in (
            lambda m, s: acq.expected_improvement(m, s, 0.2),
            lambda m, s: acq.log_expected_improvement(m, s, -4.0),
            lambda m, s: acq.log_window_probability(m, s, 0.1, 0.9),
            lambda m, s: acq.improvement_probability(m, s, 0.2),
        ):
            for arg in (0, 1):
                slope = jax.grad(lambda m, s, f=f: f(m, s).sum(), argnums=arg)(mean, std)
                h = 1e-5
                up, down = ((mean + h, std), (mean - h, std)) if arg == 0 else ((mean, std + h), (mean, std - h))
                np.testing.assert_allclose(slope, (f(*up) - f(*down)) / (2 * h), rtol=1e-6, atol=1e-8)


def test_window_probability():
    exact = stats.norm.cdf(1.0, MEAN, STD) - stats.norm.cdf(0.25, MEAN, STD)
    np.testing.assert_allclose(acq.window_probability(*f32(MEAN, STD), 0.25, 1.0), exact, rtol=1e-5)
    one_sided = acq.window_probability(*f32(MEAN, STD), -jnp.inf, 0.2)
    np.testing.assert_allclose(one_sided, stats.norm.cdf(0.2, MEAN, STD), rtol=1e-5)
    np.testing.assert_allclose(one_sided, acq.improvement_probability(*f32(MEAN, STD), 0.2), rtol=1e-5)
    assert (np.asarray(acq.window_probability(*f32(MEAN, STD), 1.0, 1.0)) == 0).all()


def test_log_window_probability_in_both_tails():
    """P(a < z < a + w) for a ≫ 1: log of logcdf differences, done in float64 through logsf."""
    a, b = np.array([20.0, 20.0, -21.0, -0.01]), np.array([21.0, 20.001, -20.0, 0.01])
    flip = a > 0
    low, high = np.where(flip, -b, a), np.where(flip, -a, b)
    exact = stats.norm.logcdf(high) + np.log(-np.expm1(stats.norm.logcdf(low) - stats.norm.logcdf(high)))
    got = acq.log_window_probability(jnp.zeros(4), jnp.ones(4), *f32(a, b))
    np.testing.assert_allclose(got, exact, rtol=1e-4)  # 20.001 - 20 itself is known to 1e-3 / 2^-20 only
    slope = jax.grad(lambda m: acq.log_window_probability(m, 1.0, 20.0, 21.0))(0.0)
    # up to the far end's e^-20: the slope of log P(z > 20), φ(20)/Φ(-20)
    np.testing.assert_allclose(slope, np.exp(stats.norm.logpdf(20) - stats.norm.logsf(20)), rtol=1e-4)


def test_one_sided_windows_have_the_slope_of_improvement():
    slope = jax.grad(lambda m, s: acq.log_window_probability(m, s, -jnp.inf, 0.2), argnums=(0, 1))
    exact = jax.grad(lambda m, s: acq.log_improvement_probability(m, s, 0.2), argnums=(0, 1))
    for m, s in zip(*f32(MEAN, STD)):
        np.testing.assert_allclose(slope(m, s), exact(m, s), rtol=1e-4, atol=1e-6)
    mirrored = jax.grad(lambda m: acq.log_window_probability(m, 1.0, 0.2, jnp.inf))(-3.0)
    np.testing.assert_allclose(mirrored, -jax.grad(lambda m: acq.log_window_probability(m, 1.0, -jnp.inf, -0.2))(3.0))


def test_bounds():
    np.testing.assert_allclose(acq.lower_bound(*f32(MEAN, STD), 1.5), -(MEAN - 1.5 * STD), rtol=F32)
    np.testing.assert_allclose(acq.upper_bound(*f32(MEAN, STD), 1.5), -(MEAN + 1.5 * STD), rtol=F32)


def test_batch_is_the_top_scores_without_a_penalty_and_spread_with_one():
    features = jnp.array([[0.0], [0.01], [0.02], [3.0], [3.01], [9.0]])
    scores = jnp.array([0.0, -0.1, -0.2, -0.5, -0.6, -2.0])
    select = jax.jit(acq.select_batch, static_argnums=(2, 3))
    np.testing.assert_array_equal(select(scores, features, 4, 1e-4), [0, 1, 2, 3])
    np.testing.assert_array_equal(select(scores, features, 3, 1.0), [0, 3, 5])
    # by hand: after picking 0, candidate 1 keeps log(1 - exp(-1e-4 / 2)) ≈ -9.9
    np.testing.assert_array_equal(select(scores, features, 4, 1.0)[3], 2)  # farther from both than 1 (and 4)


def test_batch_never_repeats_and_takes_the_unusable_last():
    features = jnp.zeros((5, 2))  # all the same: every penalty is infinite
    scores = jnp.array([-jnp.inf, 1.0, jnp.nan, 2.0, 3.0])
    chosen = np.asarray(acq.select_batch(scores, features, 5, 1.0))
    assert sorted(chosen) == [0, 1, 2, 3, 4] and chosen[0] == 4
    far = jnp.arange(10.0).reshape(5, 2) * 10
    np.testing.assert_array_equal(acq.select_batch(scores, far, 3, 1.0), [4, 3, 1])
    with pytest.raises(ValueError, match="budget is 6"):
        acq.select_batch(scores, features, 6, 1.0)

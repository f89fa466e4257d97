"""Stationary laws on an ill-conditioned Gaussian, against the closed forms that hold at finite step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.search.langevin import polynomial, psgld, sgld
from crysjax.search.run import run

LAMBDA = np.array([1.0, 100.0])  # condition number 100
ANGLE = 0.6
ROTATION = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
Center = np.array([0.3, -0.7])


def quadratic(matrix):
    matrix, center = jnp.asarray(matrix, jnp.float32), jnp.asarray(Center, jnp.float32)
    return lambda x: 0.5 * (x - center) @ matrix @ (x - center)


def chains(search, objective, x0, chains, steps, burn):
    """Samples (chains, steps - burn, d) started near the center."""

    def one(key):
        return run(search, objective, key, x0, steps, record=lambda x: x)[1].record[burn:]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), chains)), np.float64)


def check_gaussian(samples, covariance, time):
    """Mean and covariance within 4.5 standard errors; `time[i]`: integrated autocorrelation time of axis i in steps."""
    count = samples.shape[0] * samples.shape[1]
    flat = samples.reshape(count, -1)
    deviation = np.sqrt(np.diag(covariance))
    mean_error = deviation * np.sqrt(time / count)
    assert (abs(flat.mean(0) - Center) < 4.5 * mean_error).all()
    # squares decorrelate twice as fast; Var of a product of Gaussians is c_ii c_jj + c_ij²
    times = np.sqrt(np.outer(time, time)) / 2 + 1
    error = np.sqrt((np.outer(deviation, deviation) ** 2 + covariance**2) * times / count)
    measured = (flat - Center).T @ (flat - Center) / count
    assert (abs(measured - covariance) < 4.5 * error).all(), (measured, covariance, error)
    return error


def integrated_time(rate):
    """Of an autoregression x' = (1 - rate) x + noise: (1 + ρ) / (1 - ρ) with ρ = 1 - rate."""
    return (2 - rate) / rate


def test_sgld_has_the_biased_law_that_theory_gives():
    h, temperature = 0.006, 1.5
    matrix = ROTATION @ np.diag(LAMBDA) @ ROTATION.T
    samples = chains(sgld(step_size=h, temperature=temperature), quadratic(matrix), jnp.asarray(Center, jnp.float32),
                     256, 9000, 1000)  # fmt: skip
    rotated = (samples - Center) @ ROTATION + Center  # along the eigenvectors
    biased = np.diag(temperature / (LAMBDA * (1 - h * LAMBDA / 2)))
    error = check_gaussian(rotated, biased, integrated_time(h * LAMBDA))
    # the test can tell the biased law (factor 1 / 0.7 in the stiff direction) from the ideal one
    assert biased[1, 1] - temperature / LAMBDA[1] > 20 * error[1, 1]


def test_sgld_bias_vanishes_with_a_decaying_step():
    """At the end of the schedule the stiff variance is that of the last step, 4 standard errors over the chains."""
    schedule = polynomial(0.1, 100.0, 0.5)  # 0.01 at first, 0.0014 after 5000 steps
    objective = quadratic(np.diag(LAMBDA))

    def one(key):
        return run(sgld(step_size=schedule), objective, key, jnp.asarray(Center, jnp.float32), 5000)[1].last

    last = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 1024)))
    h = 0.1 * (100.0 + 4998) ** -0.5
    exact = 1 / (LAMBDA[1] * (1 - h * LAMBDA[1] / 2))
    assert abs(last[:, 1].var() / exact - 1) < 4 * np.sqrt(2 / 1024)
    np.testing.assert_allclose(schedule(jnp.array(4998)), h, rtol=1e-6)


def test_psgld_with_long_memory_has_the_law_of_a_constant_metric():
    """V → E[∇U²] = λ² v, so that G = 1 / (λ sqrt(v)), v = T / (λ (1 - hGλ/2)): solved by iteration.

    Relative bias of order (1 - alpha) τ from the dropped Γ: τ = 1/(hGλ) is 100 steps here (10 for the stiff axis).
    """
    h, alpha = 0.01, 0.9999
    v = 1 / LAMBDA
    for _ in range(50):
        metric = 1 / (LAMBDA * np.sqrt(v))
        v = 1 / (LAMBDA * (1 - h * metric * LAMBDA / 2))
    spread = jnp.asarray(Center + np.sqrt(v), jnp.float32)  # start at a typical point, so that V starts near its mean
    samples = chains(psgld(step_size=h, alpha=alpha, eps=1e-8), quadratic(np.diag(LAMBDA)), spread, 64, 40000, 10000)
    flat = samples.reshape(-1, 2)
    time = integrated_time(h * metric * LAMBDA)
    assert (abs(flat.mean(0) - Center) < 4.5 * np.sqrt(v * time / len(flat))).all()
    tolerance = 4.5 * np.sqrt(2 * time / 2 / len(flat)) + 3 * (1 - alpha) / (h * metric * LAMBDA)
    assert (abs(flat.var(0) / v - 1) < tolerance).all(), (flat.var(0) / v, tolerance)


def test_psgld_without_memory_has_the_law_tilted_by_the_dropped_term():
    """alpha = 0 and no Γ: p ∝ exp(-U) / G = exp(-x²/2) (eps + |x|), whose variance is known by quadrature."""
    eps, h = 0.5, 0.01
    grid = np.linspace(-12, 12, 200001)
    density = np.exp(-(grid**2) / 2) * (eps + abs(grid))
    exact = (grid**2 * density).sum() / density.sum()
    search = psgld(step_size=h, alpha=0.0, eps=eps)

    def one(key):
        return run(search, lambda x: 0.5 * x**2, key, jnp.array(1.0), 4000, record=lambda x: x)[1].record[1000:]

    samples = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 1024)), np.float64)
    each = (samples**2).mean(1)  # one estimate a chain: independent
    error = each.std() / np.sqrt(len(each))
    assert exact > 1.5  # far from the 1 that the target has: the bias is not small
    assert abs(each.mean() - exact) < 4.5 * error + 2 * h  # first-order scheme: bias O(h)


def test_a_torus_density():
    """exp(κ cos 2π(x - μ)) on the circle, wrapped after each move: E cos = I1(κ) / I0(κ)."""
    from scipy.special import ive

    kappa, h = 2.0, 2e-4  # curvature at most 4π²κ ≈ 79, hλ/2 < 0.8 %

    def f(x):
        return -kappa * jnp.cos(2 * jnp.pi * (x["frac"] - 0.9))

    search = sgld(step_size=h, project=lambda x: {"frac": x["frac"] % 1})

    def one(key):
        return run(search, f, key, {"frac": jnp.array(0.1)}, 4000, record=lambda x: x["frac"])[1].record[1000:]

    x = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 512)))
    assert x.min() >= 0 and x.max() <= 1
    each = np.cos(2 * np.pi * (x - 0.9)).mean(1)
    error = each.std() / np.sqrt(len(each))
    assert abs(each.mean() - ive(1, kappa) / ive(0, kappa)) < 4.5 * error + h * 4 * np.pi**2 * kappa / 2
    assert abs(np.sin(2 * np.pi * (x - 0.9)).mean()) < 4.5 * np.sin(2 * np.pi * (x - 0.9)).mean(1).std() / np.sqrt(512)


def test_places_that_are_not_finite_are_left_out():
    """A half Gaussian: E x = sqrt(2/π); the move is drawn again, which is a random walk that never steps outside."""

    def f(x):
        return jnp.where(x > 0, 0.5 * x**2, jnp.nan)

    h = 2e-3

    def one(key):
        return run(sgld(step_size=h), f, key, jnp.array(1.0), 6000, record=lambda x: x)

    _, trace = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), 512))
    x, finite = np.asarray(trace.record)[:, 2000:], np.asarray(trace.finite)[:, 2000:]
    assert (x[finite] > 0).all()
    each = (x * finite).sum(1) / finite.sum(1)
    error = each.std() / np.sqrt(len(each))
    assert abs(each.mean() - np.sqrt(2 / np.pi)) < 4.5 * error + np.sqrt(2 * h)  # a layer of one move at the wall


def test_schedules_from_optax_and_bad_settings():
    search = sgld(step_size=optax.constant_schedule(0.1), temperature=0.0)  # T = 0 is gradient descent
    _, trace = run(search, lambda x: 0.5 * x**2, jax.random.key(0), jnp.array(1.0), 5, record=lambda x: x)
    np.testing.assert_allclose(trace.record, 0.9 ** np.arange(5), rtol=1e-6)
    with pytest.raises(ValueError, match="temperature is -1"):
        sgld(step_size=0.1, temperature=-1)
    with pytest.raises(ValueError, match="alpha is 1"):
        psgld(step_size=0.1, alpha=1)

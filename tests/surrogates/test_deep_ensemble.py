"""The ensemble on data whose noise and law are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.surrogates.deep_ensemble import deep_ensemble

NOISE = 0.3


def truth(x):
    return jnp.sin(2 * x[:, 0]) + 0.5 * x[:, 1]


@pytest.fixture(scope="module")
def fitted():
    key = jax.random.split(jax.random.key(0), 4)
    x = jax.random.uniform(key[0], (400, 2), minval=-2, maxval=2)
    y = 10 + 5 * (truth(x) + NOISE * jax.random.normal(key[1], (400,)))
    surrogate = deep_ensemble(members=5, hidden=(32, 32), steps=300, capacity=512)
    return surrogate, surrogate.fit(key[2], x, y), jax.random.uniform(key[3], (2000, 2), minval=-2, maxval=2)


def test_learns_mean_and_noise_in_the_units_of_the_data(fitted):
    surrogate, posterior, x = fitted
    estimate = jax.jit(surrogate.predict)(posterior, x)
    error = np.asarray(estimate.value - (10 + 5 * truth(x)))
    assert np.sqrt((error**2).mean()) < 5 * NOISE / 2  # well under the noise of one label
    # aleatoric std 1.5 known to 1/sqrt(2 * 80 held out) = 8 %, plus the model's own error
    assert 0.75 < np.median(estimate.std) / (5 * NOISE) < 1.35
    assert estimate.valid.all()


def test_new_observations_are_covered(fitted):
    surrogate, posterior, x = fitted
    y = 10 + 5 * (truth(x) + NOISE * jax.random.normal(jax.random.key(9), x.shape[:1]))
    estimate = surrogate.predict(posterior, x)
    z = np.asarray((y - estimate.value) / estimate.std)
    # the temperature comes from 80 held-out rows: 8 % of scale, 3 of those; 3.5 % share a 8 % scale
    assert abs((abs(z) < 1).mean() - 0.683) < 0.12
    assert 0.76 < np.sqrt((z**2).mean()) < 1.3


def test_epistemic_uncertainty_grows_away_from_the_data(fitted):
    surrogate, posterior, _ = fitted
    near, far = jnp.zeros((1, 2)), jnp.full((1, 2), 12.0)
    assert surrogate.predict(posterior, far).std[0] > 3 * surrogate.predict(posterior, near).std[0]


def test_gradient_of_the_prediction_against_differences(fitted):
    surrogate, posterior, _ = fitted
    with jax.enable_x64(True):
        posterior = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), posterior)
        f = lambda p: (lambda e: e.value[0] + e.std[0])(surrogate.predict(posterior, p[None, :]))  # noqa: E731
        point, h = jnp.array([0.2, -0.9], jnp.float64), 1e-5
        differences = [(f(point + e) - f(point - e)) / (2 * h) for e in h * jnp.eye(2, dtype=jnp.float64)]
        np.testing.assert_allclose(jax.grad(f)(point), differences, rtol=1e-6)


def test_unobserved_rows_change_nothing_and_invalid_queries_are_flagged(fitted):
    surrogate, _, _ = fitted
    key = jax.random.key(1)
    x = jax.random.normal(key, (30, 2))
    y = truth(x)
    plain = surrogate.fit(key, x, y)
    holes = surrogate.fit(key, jnp.concatenate([x, x[:5]]), jnp.concatenate([y, jnp.full(5, jnp.nan)]))
    np.testing.assert_array_equal(plain.data.y, holes.data.y)
    a, b = surrogate.predict(plain, x), surrogate.predict(holes, x.at[0, 0].set(jnp.inf))
    np.testing.assert_allclose(a.value[1:], b.value[1:], atol=1e-5)
    assert not b.valid[0] and b.valid[1:].all() and np.isfinite(b.value).all()


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"held_out is 1\.5"):
        deep_ensemble(held_out=1.5)

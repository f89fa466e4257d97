"""Scales of what surrogates are fitted to: those of float64, and an error for a row that sets them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.surrogates.deep_ensemble import deep_ensemble
from crysjax.surrogates.gp import gp
from crysjax.surrogates.observations import observe, pad


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e20, 1e37])
def test_moments_do_not_overflow(unit):
    rng = np.random.default_rng(0)
    x, y = np.float32(unit * rng.normal(size=(30, 3))), np.float32(unit * (2 + rng.normal(size=30)))
    y[4] = np.nan
    data = observe(jnp.asarray(x), jnp.asarray(y))
    known = np.isfinite(y)
    wide = unit > 1e-6  # below, a spread counts as none
    wanted = y[known].astype(float)
    np.testing.assert_allclose(data.y_mean, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(data.y_std, wanted.std() if wide else 1, rtol=1e-5)
    np.testing.assert_allclose(data.x_std, x[known].astype(float).std(0) if wide else np.ones(3), rtol=1e-5)
    assert np.isfinite(data.x).all() and np.isfinite(data.y).all()


@pytest.mark.parametrize("surrogate", [gp(steps=2), deep_ensemble(members=2, steps=2)])
def test_a_row_that_sets_the_scale_alone_is_named(surrogate):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(20, 2)), jnp.float32)
    y = x[:, 0].at[7].set(1e30)
    with pytest.raises(ValueError, match=r"surrogate: y: the value 1e\+30 of row 8 sets a scale of 2\.\d+e\+29"):
        surrogate.fit(jax.random.key(0), x, y)


def test_a_traced_fit_is_not_looked_into():
    x, y = jnp.zeros((3, 2)), jnp.array([0.0, 1.0, 1e30])
    assert jax.jit(lambda x, y: pad(x, y, 5)[1])(x, y).shape == (5,)

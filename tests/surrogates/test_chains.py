"""Diagnostics of chains against NumPyro's own, and on chains whose faults are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.surrogates import chains
from crysjax.surrogates.chains import Diagnostics, diagnose, effective_sample_size, sound, split_r_hat, trouble


def autoregression(correlation: float, shape=(4, 400), seed: int = 0) -> np.ndarray:
    """Chains of unit variance whose draws have this correlation from one to the next."""
    rng = np.random.default_rng(seed)
    x = np.empty(shape)
    x[:, 0] = rng.normal(size=shape[0])
    for k in range(1, shape[1]):
        x[:, k] = correlation * x[:, k - 1] + np.sqrt(1 - correlation**2) * rng.normal(size=shape[0])
    return x


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95, -0.4])
@pytest.mark.parametrize("draws", [100, 401])
def test_they_are_those_of_numpyro(correlation, draws):
    from numpyro.diagnostics import effective_sample_size as theirs
    from numpyro.diagnostics import split_gelman_rubin

    x = autoregression(correlation, (3, draws))
    mine = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(split_r_hat(mine), split_gelman_rubin(x), rtol=1e-4)
    bound = x.size * np.log10(x.size)  # which NumPyro does not have
    np.testing.assert_allclose(effective_sample_size(mine), min(theirs(x), bound), rtol=2e-3)


def test_the_effective_size_is_that_of_the_correlation_time():
    """Of an autoregression: n (1 - rho) / (1 + rho), to what 16,000 draws can tell."""
    x = autoregression(0.8, (8, 2000))
    np.testing.assert_allclose(effective_sample_size(jnp.asarray(x, jnp.float32)), 16000 * 0.2 / 1.8, rtol=0.2)


@pytest.mark.parametrize("correlation", [-0.8, -0.95])
@pytest.mark.parametrize("seed", range(5))
def test_antithetic_draws_count_for_a_bounded_number(correlation, seed):
    """The exact sizes are 9 n and 39 n, which 1,600 draws cannot tell from infinity; the bound is Stan's."""
    found = float(effective_sample_size(jnp.asarray(autoregression(correlation, seed=seed), jnp.float32)))
    np.testing.assert_allclose(found, 1600 * np.log10(1600), rtol=1e-5)


GOOD = np.exp(autoregression(0.3))
FAULTS = {
    "another place": (GOOD * np.array([[1.0], [1.0], [1.0], [5.0]]), 0.0, "R-hat is"),
    "a drift": (GOOD * np.exp(np.linspace(0, 3, 400))[None], 0.0, "R-hat is"),
    "stuck": (np.exp(autoregression(0.995)), 0.0, "effective sample size is"),
    "not moving": (np.ones((4, 400)), 0.0, "R-hat is nan"),
    "divergent": (GOOD, 0.05, "5.0% of the trajectories diverged"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_each_fault_is_told(name):
    x, share, said = FAULTS[name]
    diverged = jnp.asarray(np.arange(1600).reshape(4, 400) < share * 1600)
    found = diagnose({"good": jnp.asarray(GOOD), "x": jnp.asarray(x)[..., None]}, diverged)
    assert not bool(sound(found)) and said in trouble(found)


def test_good_chains_are_sound_and_the_worst_of_several_fits_is_told():
    found = diagnose({"x": jnp.asarray(GOOD)}, jnp.zeros((4, 400), bool))
    assert bool(sound(found)) and trouble(found) == "" and trouble(chains.unquestioned()) == ""
    bad = Diagnostics(jnp.zeros(()), jnp.asarray(1.3), jnp.asarray(20.0))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), found, bad)
    assert "R-hat is 1.30" in trouble(both) and "size is 20" in trouble(both)

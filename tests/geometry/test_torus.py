"""The torus: identities of wrap and log, minimum images against brute force, the wrapped normal against sums."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from crysjax.geometry import torus


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fractional differences and cells from compact to badly skewed (shears up to 2.5 cells)."""
    rng = np.random.default_rng(0)
    lattice = np.eye(3) * rng.uniform(2, 6, (count, 3))[:, :, None]
    lattice[:, 1] += rng.uniform(-1, 1, (count, 1)) * lattice[:, 0]
    lattice[:, 2] += rng.uniform(-2.5, 2.5, (count, 1)) * lattice[:, 0] + rng.uniform(-1, 1, (count, 1)) * lattice[:, 1]
    return rng.uniform(-2, 2, (count, 3)), lattice @ np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]


def test_wrap_and_log_are_representatives_of_the_same_point():
    x = jnp.asarray(np.random.default_rng(0).uniform(-5, 5, (100, 3)))
    for found, low, high in ((torus.wrap(x), 0, 1), (torus.log(x), -0.5, 0.5)):
        assert (found >= low).all() and (found <= high).all()
        np.testing.assert_allclose(np.asarray(found - x), np.round(found - x), atol=1e-12)
    np.testing.assert_allclose(torus.log(torus.wrap(x)), torus.log(x), atol=1e-12)
    np.testing.assert_allclose(torus.log(-x), -torus.log(x), atol=1e-12)
    np.testing.assert_array_equal(jax.grad(lambda y: torus.wrap(y).sum() + torus.log(y).sum())(x), np.full((100, 3), 2))


def test_minimum_image_is_that_of_brute_force():
    """Every image within ±6 cells; the shears reach 3.5 cells, so the nearest one is among them."""
    difference, lattice = draw(300)
    found = jax.jit(torus.minimum_image)(jnp.asarray(difference), jnp.asarray(lattice))
    shifts = np.array(list(itertools.product(range(-6, 7), repeat=3)), float)
    images = (difference - np.round(difference))[:, None, :] + shifts[None]
    lengths = np.linalg.norm(np.einsum("bmi,bij->bmj", images, lattice), axis=-1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), lengths.min(1), rtol=1e-9)
    cells = np.einsum("bj,bji->bi", np.asarray(found), np.linalg.inv(lattice)) - difference
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-9)
    plain = np.linalg.norm(np.einsum("bi,bij->bj", difference - np.round(difference), lattice), axis=-1)
    assert (plain > lengths.min(1) + 0.1).mean() > 0.2  # rounding each component is not enough for these cells


def test_minimum_image_in_single_precision():
    difference, lattice = draw(300)
    expected = torus.distance(jnp.asarray(difference), jnp.asarray(lattice))
    found = torus.distance(*(jnp.asarray(x, jnp.float32) for x in (difference, lattice)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_derivatives_of_the_distance_are_finite_differences():
    difference, lattice = (jnp.asarray(x[:5]) for x in draw(5))
    h, rng = 1e-6, np.random.default_rng(3)
    d, l = (jnp.asarray(rng.normal(size=x.shape)) for x in (difference, lattice))
    total = jax.jit(lambda t: torus.distance(difference + t * d, lattice + t * l))
    np.testing.assert_allclose(jax.jacfwd(total)(0.0), (total(h) - total(-h)) / (2 * h), rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(jax.grad(torus.distance)(jnp.zeros(3), lattice[0]), np.zeros(3))


@pytest.mark.parametrize(("sigma", "images"), [(0.01, 3), (0.1, 3), (0.6, 3), (1.0, 5)])
def test_wrapped_normal_is_a_density_with_that_score(sigma, images):
    x, step = jnp.linspace(-0.5, 0.5, 2000, endpoint=False, retstep=True)
    scale = jnp.asarray(sigma)
    log_prob = jax.jit(lambda y: torus.wrapped_normal_log_prob(y, scale, images))
    # the trapezoidal rule is exact for periodic functions; what is left are the windings that are not summed
    np.testing.assert_allclose(jnp.exp(log_prob(x)).sum() * step, 1, atol=6e-8)
    windings = np.arange(-30, 31)[:, None]  # far more than any sigma here needs
    exponents = -0.5 * ((np.asarray(x)[None] + windings) / sigma) ** 2
    explicit = logsumexp(exponents, axis=0) - np.log(sigma * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(log_prob(x), explicit, rtol=1e-12, atol=3e-6)
    by_autodiff = jax.grad(lambda y: log_prob(y).sum())(x)
    np.testing.assert_allclose(torus.wrapped_normal_score(x, scale, images), by_autodiff, rtol=1e-8, atol=1e-8)

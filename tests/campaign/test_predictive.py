"""The predictive law of validated values: closed forms in numpy, what outcomes teach, and its physical range."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Estimate, Surrogate
from crysjax.campaign import goals as targets
from crysjax.campaign import predictive
from crysjax.campaign.plan import Goal
from crysjax.campaign.rows import of_goals
from crysjax.surrogates import gp as gaussian_processes
from crysjax.surrogates.gp import Hyper, gp

GOALS = targets.goals({"energy": Goal("minimise"), "band_gap_ev": Goal("window", 1.0, 2.0)},
                      ("band_gap_ev", "energy"), (2.0, 0.5))  # fmt: skip
DIMENSIONS, ROWS = 3, 12
SURROGATE = gp(ard=False, capacity=20, unit_prior=True, observed=True)  # as `cli/design.py` makes it


def fixed(length: float, noise: float) -> Surrogate:
    """The same process with hyper-parameters that are given and not learned."""

    def fit(key, x, y):
        data = gaussian_processes.observe(*gaussian_processes.pad(x, y, 20), True, False)
        hyper = Hyper(jnp.full((1, 1), length), jnp.ones(1), jnp.full(1, noise))
        return gaussian_processes.condition(gaussian_processes.matern52, hyper, data, 0.0)

    return Surrogate(fit, partial(gaussian_processes.predict, gaussian_processes.matern52, observed=True))


def heads(rng, count: int, std: tuple[float, float] = (0.3, 0.8)) -> Estimate:
    """Answers in the order of the goals: an energy and a gap, with a std of their own for each crystal."""
    value = np.stack([rng.normal(-2, 0.5, count), rng.uniform(1, 4, count)], -1)
    return Estimate(value, np.array(std) * rng.uniform(0.5, 1.5, (count, 2)), np.ones(count, bool))


def learned(surrogate: Surrogate, x: np.ndarray, z: np.ndarray, trust: float = 1.0) -> predictive.Learned:
    x, z = (jnp.asarray(np.pad(a, ((0, 20 - len(a)), (0, 0)), constant_values=fill), jnp.float32)
            for a, fill in ((x, 0.0), (z, np.nan)))  # fmt: skip
    return predictive.learn(surrogate, jax.random.key(0), x, z, trust, 0.0)


@lru_cache
def compiled(surrogate: Surrogate):
    return jax.jit(lambda taught, prior, x: predictive.law(surrogate, taught, prior, x))


def law(surrogate: Surrogate, taught: predictive.Learned, prior: Estimate, x: np.ndarray) -> Estimate:
    """Host arrays; as many rows as there can be outcomes, so that one program serves all tests."""
    rows, short = len(x), 20 - len(x)
    more = lambda a: np.pad(a, ((0, short),) + ((0, 0),) * (a.ndim - 1), mode="edge")  # noqa: E731
    prior = Estimate(*(jnp.asarray(more(a), bool if a.dtype == bool else jnp.float32) for a in prior))
    found = compiled(surrogate)(taught, prior, jnp.asarray(more(x), jnp.float32))
    return Estimate(*(np.asarray(leaf)[:rows] for leaf in found))


def test_it_is_the_conditional_gaussian_of_the_model_in_the_docstring():
    """v = m + s (g + e): the joint covariance in eV of outcomes and candidates, conditioned by solving in float64."""
    rng, length, noise = np.random.default_rng(0), 1.3, 0.4
    x, q = rng.normal(size=(ROWS, DIMENSIONS)), rng.normal(size=(5, DIMENSIONS))
    before, now = heads(rng, ROWS), heads(rng, 5)
    v = before.value + before.std * rng.normal(size=(ROWS, 2))
    surrogate = fixed(length, noise)
    found = law(surrogate, learned(surrogate, x, (v - before.value) / before.std), now, q)
    scaled = [(a - x.mean(0)) / x.std(0) / length for a in (x, q)]

    def kernel(a, b):
        r = np.sqrt(5) * np.linalg.norm(a[:, None] - b[None], axis=-1)
        return (1 + r + r**2 / 3) * np.exp(-r)

    for k in range(2):
        s, t = before.std[:, k], now.std[:, k]
        known = np.outer(s, s) * (kernel(scaled[0], scaled[0]) + noise**2 * np.eye(ROWS))
        cross = np.outer(t, s) * kernel(scaled[1], scaled[0])
        mean = now.value[:, k] + cross @ np.linalg.solve(known, v[:, k] - before.value[:, k])
        variance = t**2 * (1 + noise**2) - np.einsum("ij,ji->i", cross, np.linalg.solve(known, cross.T))
        np.testing.assert_allclose(found.value[:, k], mean, atol=2e-4)
        np.testing.assert_allclose(found.std[:, k], np.sqrt(variance), rtol=1e-3)


def test_outcomes_that_agree_make_it_surer_near_them_and_not_far_away():
    rng = np.random.default_rng(1)
    x, before = rng.normal(size=(ROWS, DIMENSIONS)), heads(rng, ROWS)
    taught = learned(SURROGATE, x, 0.02 * rng.normal(size=(ROWS, 2)))
    near = law(SURROGATE, taught, before, x)
    assert (near.std < 0.5 * before.std).all(), near.std / before.std
    far = law(SURROGATE, taught, before, x + 1e3)
    np.testing.assert_allclose(far.std, before.std, rtol=0.05)
    np.testing.assert_allclose(far.value, before.value, atol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_moves_to_where_the_outcomes_were(sign):
    rng = np.random.default_rng(2)
    x, before = rng.normal(size=(ROWS, DIMENSIONS)), heads(rng, ROWS)
    moved = sign * np.array([1.0, 0.6]) * np.ones((ROWS, 2))
    found = law(SURROGATE, learned(SURROGATE, x, moved), before, x)
    shift = (found.value - before.value) / before.std
    np.testing.assert_allclose(shift, moved, atol=0.25)
    assert (sign * shift > 0.3).all()


def test_outcomes_that_scatter_more_than_the_heads_said_make_it_less_sure():
    rng = np.random.default_rng(3)
    x, before = rng.normal(size=(20, DIMENSIONS)), heads(rng, 20)
    taught = learned(SURROGATE, x, 4 * rng.normal(size=(20, 2)))
    far = law(SURROGATE, taught, before, x + 1e3)
    assert (far.std > 2 * before.std).all(), far.std / before.std


def test_before_anything_is_learned_it_is_the_heads_own():
    rng = np.random.default_rng(4)
    x, before = rng.normal(size=(ROWS, DIMENSIONS)), heads(rng, ROWS)
    found = law(SURROGATE, learned(SURROGATE, x, np.ones((ROWS, 2)), trust=0.0), before, x)
    np.testing.assert_array_equal(found.value, before.value.astype(np.float32))
    np.testing.assert_array_equal(found.std, before.std.astype(np.float32))


def test_over_draws_of_the_model_its_errors_have_the_std_it_says():
    """Fresh values of the model's own law at learned hyper-parameters: z of held-out candidates has a variance of 1."""
    rng, errors = np.random.default_rng(5), []
    for _ in range(8):
        x, before = rng.normal(size=(20, DIMENSIONS)), heads(rng, 20)
        r = np.sqrt(5) * np.linalg.norm(x[:, None] - x[None], axis=-1) / 2
        smooth = np.linalg.cholesky((1 + r + r**2 / 3) * np.exp(-r) + 1e-9 * np.eye(20))
        v = before.value + before.std * (smooth @ rng.normal(size=(20, 2)) + 0.2 * rng.normal(size=(20, 2)))
        taught = learned(SURROGATE, x[:14], ((v - before.value) / before.std)[:14])
        found = law(SURROGATE, taught, Estimate(*(a[14:] for a in before)), x[14:])
        errors.append(((v[14:] - found.value) / found.std)[:, 0])
    errors = np.concatenate(errors)
    assert 0.5 < np.square(errors).mean() < 2, np.square(errors).mean()  # 48 errors, six and six of one draw


def test_the_prior_counts_the_error_of_another_judge_and_knows_the_physical_range():
    said = Estimate(jnp.array([[-0.4, -1.0], [3.0, -2.0]]), jnp.array([[0.5, 0.3], [0.5, 0.0]]), jnp.ones((2, 2), bool))
    found = predictive.prior(GOALS, said, jnp.array([0.4, 0.0]))
    np.testing.assert_allclose(found.value, [[-1.0, 0.0], [-2.0, 3.0]])  # no gap below zero, energies as they are
    np.testing.assert_allclose(found.std, [[0.5, 0.5], [0.4, 0.5]], rtol=1e-6)
    assert found.valid.tolist() == [True, True]


def test_what_is_shown_stays_in_the_physical_range_and_hits_count_the_gaussian():
    value, std = np.array([[-3.0, -0.4], [-2.0, 0.3]]), np.full((2, 2), 0.5)
    shown = of_goals(GOALS, value, std)
    assert shown["properties"]["band_gap_ev"][0].tolist() == [0.0, 0.3]
    np.testing.assert_array_equal(shown["p_hit"], targets.hit_probability(GOALS, value, std))
    assert shown["p_hit"][0] < targets.hit_probability(GOALS, np.maximum(value, [[-9, 0]]), std)[0]

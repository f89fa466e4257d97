"""Acquisitions that a plan can name, against hand calculation; each is one row of a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from crysjax.base import Estimate
from crysjax.campaign import goals as targets
from crysjax.campaign.acquire import ACQUISITIONS
from crysjax.campaign.goals import Goal

GAP, ENERGY = ("window", 1.0, 2.0), ("minimise",)
VALUE, STD = np.array([[1.4, -1.0], [2.5, -2.0]]), np.array([[0.3, 0.5], [0.4, 0.2]])
SCALE, BEST = np.array([2.0, 0.5]), -3.0


def said(name: str, *, weights: tuple[float, float] = (1.0, 1.0), **settings) -> np.ndarray:
    target = {"gap": Goal(*GAP, weight=weights[0]), "energy": Goal(*ENERGY, weight=weights[1])}
    goals = targets.goals(target, ("gap", "energy"), SCALE)
    estimate = Estimate(jnp.asarray(VALUE, jnp.float32), jnp.asarray(STD, jnp.float32), jnp.ones(2, bool))
    made = ACQUISITIONS[name](**settings)
    return np.asarray(jax.jit(lambda e: made(goals, e, jnp.float32(BEST)))(estimate))


def in_window(factor: float = 1.0) -> np.ndarray:
    value, std = VALUE[:, 0], factor * STD[:, 0]
    return np.log(norm.cdf((2 - value) / std) - norm.cdf((1 - value) / std))


def expected_improvement(factor: float = 1.0, weight: float = 1.0) -> np.ndarray:
    mean, std = weight * VALUE[:, 1] / 0.5, weight * factor * STD[:, 1] / 0.5
    z = (BEST - mean) / std
    return np.log(std * (norm.pdf(z) + z * norm.cdf(z)))


def bound(beta: float) -> np.ndarray:
    gap, reach = VALUE[:, 0], beta * STD[:, 0]
    missed = np.maximum(np.maximum(1 - (gap + reach), (gap - reach) - 2), 0) / 2
    return -(VALUE[:, 1] - beta * STD[:, 1]) / 0.5 - missed


EXPECTED = {
    ("expected_improvement", ()): in_window() + expected_improvement(),
    ("expected_improvement", (("exploration", 2.0),)): in_window(2) + expected_improvement(2),
    ("improvement_probability", ()): in_window() + norm.logcdf((BEST - VALUE[:, 1] / 0.5) / (STD[:, 1] / 0.5)),
    ("window_probability", ()): in_window(),
    ("lower_bound", ()): bound(2.0),
    ("lower_bound", (("exploration", -1.0),)): bound(-1.0),
    ("upper_bound", (("caution", 1.0),)): bound(-1.0),
}


@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_worth_by_hand(case):
    np.testing.assert_allclose(said(case[0], **dict(case[1])), EXPECTED[case], rtol=2e-5)


def test_every_acquisition_is_in_the_table_above():
    assert {name for name, _ in EXPECTED} == set(ACQUISITIONS)


def test_a_weight_counts_a_window_as_a_power_and_a_slope_as_a_factor():
    found = said("expected_improvement", weights=(3.0, 2.0))
    np.testing.assert_allclose(found, 3 * in_window() + expected_improvement(weight=2.0), rtol=2e-5)


def test_caution_prefers_the_surer_candidate_and_optimism_the_other():
    goals = targets.goals({"energy": Goal(*ENERGY)}, ("energy",), (1.0,))
    estimate = Estimate(jnp.array([[-1.0], [-1.1]]), jnp.array([[0.1], [0.5]]), jnp.ones(2, bool))
    order = {b: np.argmax(ACQUISITIONS["lower_bound"](exploration=b)(goals, estimate, 0.0)) for b in (2.0, -2.0)}
    assert order == {2.0: 1, -2.0: 0}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("expected_improvement", {"exploration": -1.0}, r"exploration: -1.0; .* acquisition: upper_bound, or lower_"),
        ("lower_bound", {"exploration": float("inf")}, r"exploration: inf; expected a finite number"),
        ("upper_bound", {"caution": -1.0}, r"caution: -1.0; .*optimism is lower_bound's"),
    ],
)
def test_refusals_name_the_alternative(name, settings, message):
    with pytest.raises(ValueError, match=message):
        ACQUISITIONS[name](**settings)

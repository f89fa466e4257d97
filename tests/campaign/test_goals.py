"""Targets as numbers: objectives against hand calculation, the acquisition against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Estimate
from crysjax.campaign import acquire
from crysjax.campaign import goals as targets
from crysjax.campaign.goals import Goal

INF = float("inf")
TARGET = {"gap": Goal("window", 1.0, 2.0), "energy": Goal("minimise"), "modulus": Goal("maximise")}
NAMES, SCALE = ("energy", "other", "gap", "modulus"), (0.5, 9.0, 2.0, 50.0)
GOALS = targets.goals(TARGET, NAMES, SCALE)
IMPROVEMENT = acquire.expected_improvement()
WORTH = jax.jit(lambda estimate, best: IMPROVEMENT(GOALS, estimate, best))


def test_columns_follow_the_heads():
    assert GOALS.names == ("gap", "energy", "modulus")
    assert GOALS.column.tolist() == [2, 0, 3]
    assert GOALS.scale.tolist() == [2.0, 0.5, 50.0]
    with pytest.raises(ValueError, match=r"target\.mass: the heads do not predict it; expected one of energy, other"):
        targets.goals({"mass": Goal("minimise")}, NAMES, SCALE)


@pytest.mark.parametrize("xp", [np, jnp])
def test_objective_by_hand(xp):
    values = xp.asarray(np.array([[1.5, -1.0, 100.0], [0.5, -1.0, 100.0], [3.0, 0.0, 0.0]], np.float32))
    np.testing.assert_allclose(targets.objective(GOALS, values), [-2 - 2, -4 + 0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(targets.misses(GOALS, values)[:, 0], [0, 0.25, 0.5], rtol=1e-6)
    assert targets.meets(GOALS, np.asarray(values)).tolist() == [True, False, False]


GAP = targets.goals({"band_gap_ev": Goal("window", 0.0, 1.0), "energy": Goal("minimise")},
                    ("band_gap_ev", "energy"), (2.0, 0.5))  # fmt: skip


def test_a_hit_is_the_probability_of_every_window_by_monte_carlo():
    """Values below the least one count as the least one: a metal's gap is 0, and a window from 0 on holds it."""
    goals = targets.goals({"band_gap_ev": Goal("window", 0.0, 1.0), "bulk_modulus_gpa": Goal("window", 50.0, 120.0)},
                          ("band_gap_ev", "bulk_modulus_gpa"), (2.0, 50.0))  # fmt: skip
    value = np.array([[0.2, 100.0], [0.0, 60.0], [1.4, 90.0], [-0.6, 90.0]])
    std = np.array([[0.5, 30.0], [0.4, 20.0], [0.3, 0.0], [0.4, 30.0]])
    draws = np.maximum(np.random.default_rng(0).normal(value, std, (200_000, 4, 2)), 0)
    inside = ((draws >= [0, 50]) & (draws <= [1, 120])).all(-1).mean(0)
    found = targets.hit_probability(goals, value, std)
    np.testing.assert_allclose(found, inside, atol=4 * np.sqrt(0.25 / 200_000))
    assert found[1] > 0.6, "half of the gap's Gaussian lies below 0 and is a gap of 0"


def test_a_mean_below_the_least_value_is_no_likely_hit_just_above_it():
    goals = targets.goals({"band_gap_ev": Goal("window", 0.1, 1.0)}, ("band_gap_ev",), (2.0,))
    found = targets.hit_probability(goals, np.array([[-0.37], [-1.0]]), np.array([[0.3], [0.5]]))
    np.testing.assert_allclose(found, [0.0586, 0.0139], atol=1e-4)  # ndtr(1.37 / 0.3) - ndtr(0.47 / 0.3), ...


def test_a_wide_bar_is_no_certain_hit_and_no_bar_is():
    probability = targets.hit_probability(GAP, np.array([[0.5, -1.0]] * 3), np.array([[3.0, 1], [0.0, 1], [np.nan, 1]]))
    assert 0.3 < probability[0] < 0.6 and probability[1:].tolist() == [1, 1]
    assert targets.hit_probability(GAP, np.array([[1.5, -9.0]]), np.array([[0.0, 1.0]])).tolist() == [0]


def test_a_target_without_a_window_has_no_hits():
    goals = targets.goals({"energy": Goal("minimise")}, NAMES, SCALE)
    assert np.isnan(targets.hit_probability(goals, np.zeros((2, 1)), np.ones((2, 1)))).all()


def test_worth_counts_what_is_below_the_least_value_too():
    goals = targets.goals({"band_gap_ev": Goal("window", 0.0, 1.0)}, ("band_gap_ev",), (2.0,))
    metal = Estimate(jnp.zeros((1, 1)), jnp.full((1, 1), 0.5), jnp.ones(1, bool))
    worth = IMPROVEMENT(goals, metal, jnp.float32(0.0))
    assert float(worth[0]) == pytest.approx(np.log(0.9772499), abs=1e-5)  # all below 0, and up to two std above


def test_half_open_windows():
    goals = targets.goals({"gap": Goal("window", -INF, 2.0)}, NAMES, SCALE)
    assert targets.objective(goals, np.array([[-50.0], [3.0]])).tolist() == [0.0, 0.5]
    assert targets.wanted(goals, ("gap",), (1.0,), (0.5,)).tolist() == [1.5]


def test_worth_is_window_probability_times_expected_improvement():
    value, std = np.array([[1.4, -0.3, 60.0]], np.float32), np.array([[0.6, 0.4, 30.0]], np.float32)
    estimate, best = Estimate(value, std, np.array([True])), jnp.float32(-1.5)
    found = WORTH(estimate, best)
    draws = np.random.default_rng(0).normal(value, std, (400_000, 3))
    inside = ((draws[:, 0] > 1) & (draws[:, 0] < 2)).mean()
    gain = np.maximum(-1.5 - (draws[:, 1] / 0.5 - draws[:, 2] / 50), 0)
    error = gain.std() / np.sqrt(len(gain)) / gain.mean() + np.sqrt((1 - inside) / inside / len(gain))
    assert float(found[0]) == pytest.approx(np.log(inside * gain.mean()), abs=4 * error)


def test_worth_without_a_minimum_is_the_windows_alone():
    goals = targets.goals({"gap": Goal("window", 1.0, 2.0)}, NAMES, SCALE)
    estimate = Estimate(jnp.array([[1.5], [9.0]]), jnp.array([[0.5], [0.5]]), jnp.array([True, True]))
    worth = jax.jit(lambda e: IMPROVEMENT(goals, e, jnp.float32(0.0)))(estimate)
    assert float(worth[0]) == pytest.approx(np.log(0.6826895), abs=1e-5)  # one standard deviation either side
    assert np.isfinite(worth[1]) and worth[1] < -90


def test_no_exploration_is_greedy():
    estimate = Estimate(jnp.array([[1.5, -1.0, 0.0], [1.5, -1.2, 0.0]]), jnp.array([[0.1, 5.0, 1.0], [0.1, 0.1, 1.0]]),
                        jnp.array([True, True]))  # fmt: skip
    bold = WORTH(estimate, jnp.float32(-2.0))
    none = acquire.expected_improvement(exploration=0.0)
    greedy = jax.jit(lambda e, best: none(GOALS, e, best))(estimate, jnp.float32(-2.0))
    assert bold[0] > bold[1] and greedy[1] > greedy[0]


def test_what_a_generator_is_asked_for():
    asked = targets.wanted(GOALS, ("energy", "gap", "mass", "modulus"), (-1.0, 1.0, 0.0, 80.0), (1.0, 1.5, 1.0, 40.0))
    np.testing.assert_allclose(asked, [-2.5, 1.5, np.nan, 140.0])

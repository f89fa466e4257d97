"""Hit curves against exact expectations: enumeration, the hypergeometric law, and a pool whose odds are known."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

PLACE = Path(__file__).parents[2] / "experiments" / "uncertainty" / "selection.py"
selection = importlib.util.module_from_spec(SPEC := importlib.util.spec_from_file_location("selection", PLACE))
SPEC.loader.exec_module(selection)

LOW, HIGH = -0.3, 0.6


def pool(m, seed, spreads=(0.4, 1.5)):
    """Predictions that are exactly right about their own uncertainty: y ~ N(mean, std²), and P(hit) of each."""
    draw = np.random.default_rng(seed)
    mean, std = draw.normal(size=m), draw.choice(spreads, m)
    truth = mean + std * draw.normal(size=m)
    odds = ndtr((HIGH - mean) / std) - ndtr((LOW - mean) / std)
    return mean, std, (truth > LOW) & (truth < HIGH), odds


def test_hits_by_hand():
    score, hit = np.array([0.1, np.nan, 0.9, 0.5]), np.array([True, True, False, True])
    np.testing.assert_array_equal(selection.hits(score, hit, [1, 2, 3, 4]), [0, 1, 2, 3])


def test_ties_are_the_mean_over_all_orders():
    score, hit = np.array([2.0, 1, 1, 1, 1, 0]), np.array([1.0, 0, 1, 0, 0, 1])
    orders = [[0, *middle, 5] for middle in itertools.permutations([1, 2, 3, 4])]
    exact = np.mean([np.cumsum(hit[order]) for order in orders], 0)
    np.testing.assert_allclose(selection.hits(score, hit, range(1, 7)), exact, rtol=1e-12)


def test_random_selection_is_hypergeometric():
    from scipy.stats import hypergeom

    budgets = np.array([1, 3, 10, 19])
    mean, std = selection.random_hits(20, 7, budgets)
    law = hypergeom(20, 7, budgets)
    np.testing.assert_allclose(mean, law.mean(), rtol=1e-12)
    np.testing.assert_allclose(std, law.std(), rtol=1e-9)
    np.testing.assert_allclose(selection.hits(np.zeros(20), np.arange(20) < 7, budgets), mean, rtol=1e-12)


def test_lowest_of_a_random_selection_by_enumeration():
    values = np.array([3.0, -1.0, 2.5, 7.0, 0.0])
    exact = [np.mean([min(c) for c in itertools.combinations(values, b)]) for b in range(1, 6)]
    np.testing.assert_allclose(selection.random_best(values, range(1, 6)), exact, rtol=1e-10)


def test_lowest_of_many_uniform_values():
    # the ranks 1..m: the lowest of b has mean (m + 1) / (b + 1)
    np.testing.assert_allclose(
        selection.random_best(np.arange(1, 5001), [1, 9, 4999]), [2500.5, 500.1, 1.0002], rtol=1e-8
    )


def test_window_probability_is_that_of_scipy():
    mean, std, _, odds = pool(1000, 0)
    np.testing.assert_allclose(np.exp(selection.window_probability(mean, std, LOW, HIGH)), odds, rtol=1e-9, atol=1e-14)
    far = selection.window_probability(np.array([-50.0, 50.0, -60.0]), np.ones(3), -1.0, 1.0)
    assert far[0] == far[1] > far[2] and np.isfinite(far).all()
    one_sided = selection.window_probability(mean, std, -np.inf, 0.2)
    np.testing.assert_allclose(np.exp(one_sided), ndtr((0.2 - mean) / std), rtol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), (-np.inf, 0.2), (0.2, np.inf)])
def test_nearness_is_the_order_of_the_probability_at_equal_std(low, high):
    mean = np.random.default_rng(1).normal(size=200)
    probability = selection.window_probability(mean, np.full(200, 0.7), low, high)
    np.testing.assert_array_equal(np.argsort(probability), np.argsort(selection.nearness(mean, low, high)))


def test_hits_are_what_the_odds_say():
    budgets, m, pools = np.array([20, 100, 400]), 500, 200
    excess = []
    for seed in range(pools):
        mean, std, hit, odds = pool(m, seed)
        score = selection.window_probability(mean, std, LOW, HIGH)
        best = np.cumsum(np.sort(odds)[::-1])[budgets - 1]  # the exact optimum: no ranking expects more
        np.testing.assert_allclose(selection.hits(score, odds, budgets), best, rtol=1e-9)
        for other in (selection.nearness(mean, LOW, HIGH), selection.bound(mean, std, 1.0), std, np.zeros(m)):
            assert (selection.hits(other, odds, budgets) <= best + 1e-9).all()
        excess.append(selection.hits(score, hit, budgets) - best)
    assert (np.abs(np.mean(excess, 0)) < 4 * np.std(excess, 0) / np.sqrt(pools)).all()


def test_the_gain_of_a_true_uncertainty_is_its_exact_size():
    budget, gains, exact = 100, [], []
    for seed in range(100):
        mean, std, hit, odds = pool(500, 1000 + seed)
        scores = selection.window_probability(mean, std, LOW, HIGH), selection.nearness(mean, LOW, HIGH)
        gains.append(np.subtract(*(selection.hits(s, hit, range(1, budget + 1)).sum() for s in scores)))
        exact.append(np.subtract(*(selection.hits(s, odds, range(1, budget + 1)).sum() for s in scores)))
    assert min(exact) > 0
    assert abs(np.mean(gains) - np.mean(exact)) < 4 * np.std(np.subtract(gains, exact)) / 10


def test_compare_sees_the_gain_and_no_gain():
    mean, std, hit, _ = pool(2000, 5)
    with_std, without = selection.window_probability(mean, std, LOW, HIGH), selection.nearness(mean, LOW, HIGH)
    gain = selection.compare(with_std, without, hit, 300, draws=200)
    assert gain.low > 0 and gain.better == 1.0
    assert gain.area == pytest.approx(selection.area(with_std, hit, 300))
    assert gain.difference == pytest.approx(gain.area - gain.other_area)
    same = selection.compare(
        selection.window_probability(mean, np.full(2000, 0.4), LOW, HIGH), without, hit, 300, draws=50
    )
    assert (same.difference, same.low, same.high, same.better) == (0, 0, 0, 0.5)
    wrong = selection.compare(selection.window_probability(mean, 1.9 - std, LOW, HIGH), without, hit, 300, draws=200)
    assert wrong.high < 0  # confident where it should not be


def test_area_of_the_perfect_and_of_the_random_ranking():
    hit = np.arange(50) < 5
    assert selection.area(hit.astype(float), hit, 20) == 1.0
    exact = (np.arange(1, 21) * 0.1).sum() / (15 + 15 * 5)
    assert selection.area(np.zeros(50), hit, 20) == pytest.approx(exact)
    assert np.isnan(selection.area(np.zeros(50), np.zeros(50), 20))


def test_bands_cover_as_often_as_they_say():
    m, budgets, level, pools = 400, np.array([40, 150]), 0.9, 250
    scored = lambda seed: (lambda p: (selection.window_probability(p[0], p[1], LOW, HIGH), p[2]))(pool(m, seed))  # noqa: E731
    truth = np.mean([selection.hits(*scored(10_000 + s), budgets) for s in range(4000)], 0)
    bands = [selection.curve(*scored(s), budgets, draws=200, level=level, seed=s) for s in range(pools)]
    inside = np.mean([(b.low <= truth) & (truth <= b.high) for b in bands], 0)
    # 4 standard errors, and 0.02 for hits that are whole numbers and for 200 draws
    assert (np.abs(inside - level) < 4 * np.sqrt(level * (1 - level) / pools) + 0.02).all(), inside


def test_same_seed_same_band():
    mean, _, hit, _ = pool(100, 3)
    first, second = (selection.curve(mean, hit, [10, 50], draws=50, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, selection.curve(mean, hit, [10, 50], draws=50, seed=5))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: selection.hits(np.zeros(3), np.zeros(2), [1]), r"scores \(3,\) and hits \(2,\)"),
        (lambda: selection.hits(np.zeros(3), np.array([0, np.nan, 1]), [1]), "1 candidates have no known outcome"),
        (lambda: selection.hits(np.zeros(3), np.zeros(3), [4]), "expected 1 to 3"),
        (lambda: selection.random_hits(3, 1, [0]), "expected 1 to 3"),
        (lambda: selection.nearness(np.zeros(3), 1.0, 1.0), "expected low < high"),
        (lambda: selection.window_probability(np.zeros(1), np.zeros(1), 0.0, 1.0), "smallest std is 0"),
    ],
)
def test_bad_input_is_one_line(call, said):
    with pytest.raises(ValueError, match=said):
        call()

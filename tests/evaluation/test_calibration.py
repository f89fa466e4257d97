"""Calibration numbers on errors whose law is known; tolerances are standard errors."""

import numpy as np
import pytest

from crysjax.evaluation import calibration as cal

N = 40000
RNG = np.random.default_rng(0)
STD = RNG.uniform(0.5, 2.0, N)
ERROR = 1.5 * STD * RNG.normal(size=N)  # overconfident by 1.5


def test_scale_is_recovered_and_repairs_everything():
    scale = cal.fit_scale(ERROR, STD)
    assert abs(scale / 1.5 - 1) < 4 / np.sqrt(2 * N)
    fixed = cal.summarize(ERROR, STD * scale)
    assert abs(fixed.scale - 1) < 1e-12
    assert abs(fixed.coverage_1 - 0.6827) < 4 * np.sqrt(0.6827 * 0.3173 / N)
    assert abs(fixed.coverage_2 - 0.9545) < 4 * np.sqrt(0.9545 * 0.0455 / N)
    # a bin of N / 10 has an rmse known to 1/sqrt(2N/10); the mean of |.| over bins is below twice that
    assert fixed.ence < 2 / np.sqrt(N / 5)
    assert cal.miscalibration_area(ERROR, STD * scale) < 2 * np.sqrt(0.25 / N)


def test_numbers_of_a_miscalibrated_std():
    assert abs(cal.ence(ERROR, STD) - 0.5) < 4 * 1.5 / np.sqrt(2 * N)  # |1 - 1.5| in every bin
    inside = cal.coverage(ERROR, STD, np.array([0.5, 0.9]))
    exact = np.array([0.34703, 0.72720])  # 2 Φ(z / 1.5) - 1 at z = .67449, 1.64485
    assert (abs(inside - exact) < 4 * np.sqrt(exact * (1 - exact) / N)).all()


def test_nll_is_that_of_scipy():
    from scipy.stats import norm

    np.testing.assert_allclose(cal.nll(ERROR, STD), -norm.logpdf(ERROR, 0, STD).mean(), rtol=1e-12)


def test_scale_maximises_the_likelihood():
    best = cal.fit_scale(ERROR, STD)
    for other in (0.99 * best, 1.01 * best):
        assert cal.nll(ERROR, STD * best) < cal.nll(ERROR, STD * other)


def test_spread_and_floor_are_recovered():
    spread = RNG.gamma(2.0, 0.5, N)
    error = np.sqrt((1.8 * spread) ** 2 + 0.7**2) * RNG.normal(size=N) * 100  # units of 1/100
    a, b = cal.fit_spread(error, spread * 100)
    # Fisher information of (a, b) at the truth, from the squared std s²: Var = 2 (Σ g gᵀ / s⁴)^-1
    s2 = (1.8 * spread) ** 2 + 0.49
    g = np.stack([2 * 1.8 * spread**2, np.full(N, 2 * 0.7)]) / s2
    error_a, error_b = np.sqrt(np.diag(2 * np.linalg.inv(g @ g.T)))
    assert abs(a - 1.8) < 4 * error_a and abs(b / 100 - 0.7) < 4 * error_b


def test_members_that_all_agree_leave_the_floor():
    error = RNG.normal(size=500)
    a, b = cal.fit_spread(error, np.full(500, 1e-9))
    assert abs(np.hypot(a * 1e-9, b) - np.sqrt((error**2).mean())) < 1e-3


def test_reliability_bins_by_hand():
    curve = cal.reliability(np.array([3.0, -1.0, 2.0, 4.0]), np.array([2.0, 1.0, 1.0, 3.0]), bins=2)
    np.testing.assert_allclose(curve.std, [1.0, np.sqrt(6.5)])
    np.testing.assert_allclose(curve.rmse, [np.sqrt(2.5), np.sqrt(12.5)])
    assert list(curve.count) == [2, 2]


def test_missing_entries_are_left_out_and_nonsense_is_an_error():
    assert cal.fit_scale(np.array([1.0, np.nan, 5.0]), np.array([1.0, 1.0, np.nan])) == 1.0
    with pytest.raises(ValueError, match="no entry"):
        cal.nll(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="smallest std is 0"):
        cal.fit_scale(np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match="2 errors but 1 std"):
        cal.nll(np.zeros(2), np.ones(1))
    assert np.isnan(cal.summarize(np.array([1.0, 2.0]), np.ones(2)).rank_correlation)

"""Calibration numbers on errors whose law is known; tolerances are standard errors."""

import numpy as np
import pytest

from crysjax.predictors import calibration as cal

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


def test_scale_maximizes_the_likelihood():
    best = cal.fit_scale(ERROR, STD)
    for other in (0.99 * best, 1.01 * best):
        assert cal.nll(ERROR, STD * best) < cal.nll(ERROR, STD * other)


def test_spread_and_floor_are_recovered():
    spread = RNG.gamma(2.0, 0.5, N)
    error = np.sqrt((1.8 * spread) ** 2 + 0.7**2) * RNG.normal(size=N) * 100  # units of 1/100
    a, b, _ = cal.fit_spread(error, spread * 100)
    # Fisher information of (a, b) at the truth, from the squared std s²: Var = 2 (Σ g gᵀ / s⁴)^-1
    s2 = (1.8 * spread) ** 2 + 0.49
    g = np.stack([2 * 1.8 * spread**2, np.full(N, 2 * 0.7)]) / s2
    error_a, error_b = np.sqrt(np.diag(2 * np.linalg.inv(g @ g.T)))
    assert abs(a - 1.8) < 4 * error_a and abs(b / 100 - 0.7) < 4 * error_b


def test_an_exaggerated_spread_gets_its_power_back():
    """Errors whose std is 0.5 sqrt(spread): the power is found as well as 20,000 rows allow."""
    rng = np.random.default_rng(5)
    spread = np.exp(rng.normal(size=20_000))
    error = 0.5 * np.sqrt(spread) * rng.normal(size=len(spread))
    found = cal.fit_spread(error, spread, powers=(0.2, 1.0))
    # d log std / d power = log spread, of unit variance: Fisher information 2 per row, the factor beside it
    assert abs(found.power - 0.5) < 4 / np.sqrt(2 * len(spread)) * 1.2 and abs(found.factor - 0.5) < 0.02
    assert cal.fit_spread(error, spread).power == 1


def test_members_that_all_agree_leave_the_floor():
    error = RNG.normal(size=500)
    a, b, _ = cal.fit_spread(error, np.full(500, 1e-9))
    assert abs(np.hypot(a * 1e-9, b) - np.sqrt((error**2).mean())) < 1e-3


def test_the_certain_that_are_wrong_raise_the_floor():
    """90 % of the rows agree with themselves and are right but for 1 % with errors of 2; the rest has a true spread."""
    spread = np.where(np.arange(4000) < 3600, 1e-4, 1.0)
    error = np.where(spread < 1, 1e-4, 1.0) * RNG.normal(size=4000)
    error[np.arange(0, 3600, 100)] = 2.0
    floor = cal.floor_of_the_certain(error, spread)
    assert abs(floor - np.sqrt(4 / 100)) < 0.004
    a, b, _ = cal.fit_spread(error, spread, least_floor=floor)
    assert b >= floor * (1 - 1e-6) and abs(np.hypot(a, b) - 1) < 0.15
    wide = cal.fit_spread(error, spread, least_floor=0.5)
    assert wide[1] >= 0.5 * (1 - 1e-6) and wide[0] < a


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


def close(found, exact, standard_error):
    assert abs(found - exact) < 4 * standard_error, (found, exact, standard_error)


def test_bias_is_the_mean_error():
    assert cal.summarize(np.array([1.0, 3.0]), np.ones(2)).bias == 2.0
    assert cal.summarize(np.array([1.0, 3.0]), np.ones(2)).effective_count == 2.0


def top_share(q):
    """Of a standard normal's highest share q: mean and mean square."""
    from scipy.stats import norm

    z = norm.isf(q)
    return norm.pdf(z) / q, 1 + z * norm.pdf(z) / q


def test_winners_curse_of_an_unbiased_prediction():
    # truth N(0, τ²), prediction = truth + N(0, σ²), std σ: calibrated over all. Given the prediction p the error is
    # N(s p, τ² s) with s = σ² / (τ² + σ²), so that it is biased where p was selected.
    tau, sigma, q = 1.0, 0.8, 0.05
    truth = tau * RNG.normal(size=N)
    predicted = truth + sigma * RNG.normal(size=N)
    error, std, share = predicted - truth, np.full(N, sigma), sigma**2 / (tau**2 + sigma**2)
    found = cal.under_selection(error, std, predicted, sizes=(int(q * N), N))
    close(found[N].bias, 0, sigma / np.sqrt(N))
    close(found[N].scale, 1, 1 / np.sqrt(2 * N))
    mean, square = top_share(q)
    spread, k = np.hypot(tau, sigma), int(q * N)
    variance = tau**2 * share + (share * spread) ** 2 * (square - mean**2)
    close(found[k].bias, share * spread * mean, np.sqrt(variance / k))
    exact = np.sqrt(tau**2 * share + (share * spread) ** 2 * square) / sigma
    close(found[k].scale, exact, exact * 2 / np.sqrt(2 * k))
    assert exact > 1.2  # the case is not an empty one


def test_a_posterior_mean_is_calibrated_among_the_selected_too():
    tau, sigma = 1.0, 0.8
    truth = tau * RNG.normal(size=N)
    share = tau**2 / (tau**2 + sigma**2)
    predicted = share * (truth + sigma * RNG.normal(size=N))
    std = np.full(N, np.sqrt(tau**2 * (1 - share)))
    for k, found in cal.under_selection(predicted - truth, std, -predicted, sizes=(400, 4000)).items():
        close(found.bias, 0, std[0] / np.sqrt(k))
        close(found.scale, 1, 1 / np.sqrt(2 * k))
        close(found.coverage_2, 0.9545, np.sqrt(0.9545 * 0.0455 / k))


def test_selection_counts_crystals_without_a_truth():
    error = np.array([np.nan, 2.0, 4.0, 9.0])
    found = cal.under_selection(error, np.ones(4), np.array([9.0, 8.0, np.nan, 7.0]), sizes=(2, 3))
    assert (found[2].count, found[2].bias) == (1, 2.0)
    assert (found[3].count, found[3].bias) == (2, 5.5)
    with pytest.raises(ValueError, match="expected 1 to 4"):
        cal.under_selection(error, np.ones(4), np.arange(4.0), sizes=(5,))
    with pytest.raises(ValueError, match="4 errors but 3 score"):
        cal.under_selection(error, np.ones(4), np.arange(3.0), sizes=(1,))


def test_bands_of_distance():
    distance = RNG.permutation(np.linspace(0, 1, N))
    error = (1 + distance) * RNG.normal(size=N)
    bands = cal.by_distance(error, np.ones(N), distance, bins=4)
    for i, band in enumerate(bands):
        low, high = i / 4, (i + 1) / 4
        exact = np.sqrt(((1 + high) ** 3 - (1 + low) ** 3) / 3 * 4)  # root of the mean of (1 + d)²
        assert abs(band.low - low) < 1e-4 and abs(band.high - high) < 1e-4
        close(band.calibration.scale, exact, exact * 1.1 / np.sqrt(2 * N / 4))


def test_groups_by_hand():
    error = np.array([1.0, -1.0, 3.0, np.nan, 2.0, 5.0])
    found = cal.by_group(error, np.ones(6), ["Na-Cl", "Na-Cl", "Mg-O", "Mg-O", "Na-Cl", "Fe"], least=1)
    assert next(iter(found)) == "Na-Cl" and [found[k].count for k in ("Na-Cl", "Mg-O", "Fe")] == [3, 1, 1]
    assert found["Na-Cl"].scale == pytest.approx(np.sqrt(2)) and found["Mg-O"].bias == 3.0
    assert list(cal.by_group(error, np.ones(6), ["Na-Cl", "Na-Cl", "Mg-O", "Mg-O", "Na-Cl", "Fe"], least=2)) == [
        "Na-Cl"
    ]


def test_ence_of_perfect_errors():
    draws = [cal.ence(RNG.normal(size=400), np.ones(400)) for _ in range(400)]
    exact = cal.ence_of_perfect(400)
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws) / 20 + exact / 40  # next order: 1/n of it, n = 40


def test_weights_that_are_counts_repeat_the_rows():
    error, std, times = ERROR[:300], STD[:300], RNG.integers(0, 4, 300)
    weighted = cal.summarize(error, std, 7.0 * times)
    repeated = cal.summarize(np.repeat(error, times), np.repeat(std, times))
    for name in ("mae", "rmse", "nll", "scale", "coverage_1", "coverage_2", "sharpness", "bias"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-12), name
    assert cal.miscalibration_area(error, std, times) == pytest.approx(
        cal.miscalibration_area(np.repeat(error, times), np.repeat(std, times)), rel=1e-12
    )


def test_weighted_bins_by_hand():
    curve = cal.reliability(np.array([3.0, 1.0, 2.0]), np.array([3.0, 1.0, 2.0]), 2, np.array([4.0, 3.0, 1.0]))
    np.testing.assert_allclose(curve.std, [np.sqrt((3 * 1 + 1 * 4) / 4), 3.0])
    assert list(curve.count) == [2, 1]


def test_effective_size():
    assert cal.effective_size(np.ones(7)) == 7
    assert cal.effective_size(np.array([3.0, 3.0, 0, 0])) == 2


def test_density_ratio_of_shifted_gaussians():
    # log of N(x; δ, 1) / N(x; 0, 1) = δ x - δ²/2, and δ x is all that is left after normalization
    shift, n = 0.7, 20000
    source, target = RNG.normal(size=(n, 2)), RNG.normal(size=(n, 2)) + np.array([shift, 0])
    logs = np.log(cal.density_ratio(source, target))
    slope = np.linalg.lstsq(np.column_stack([source, np.ones(n)]), logs, rcond=None)[0]
    p = 1 / (1 + np.exp(-(shift * np.concatenate([source, target])[:, 0] - shift**2 / 2)))
    error = 1 / np.sqrt((p * (1 - p)).sum())  # Fisher information of a coefficient, features of variance ≥ 1
    close(slope[0], shift, error), close(slope[1], 0, error)
    assert np.ptp(logs - source @ slope[:2]) < 1e-8 * n
    weight = np.exp(logs)
    assert abs(weight.mean() - 1) < 1e-12
    # at the maximum of the likelihood both sides have the same mean of x under the fitted odds, so the weights balance
    assert (np.abs(cal.imbalance(source, target, weight)) < 4 * np.sqrt(2 * np.exp(shift**2) / n)).all()
    np.testing.assert_allclose(
        cal.imbalance(source, target, np.ones(n)), (source.mean(0) - target.mean(0)) / target.std(0), rtol=1e-12
    )
    assert abs(cal.effective_size(weight) / (n * np.exp(-(shift**2))) - 1) < 0.1  # E w = 1, E w² = exp(δ²)


def test_reweighting_tells_the_calibration_under_shift():
    # error N(0, exp(2 a x)) of a claimed std of 1, held out at x ~ N(0, 1), used at x ~ N(δ, 1)
    a, shift, n = 0.3, 0.8, N
    x, there = RNG.normal(size=n), RNG.normal(size=n) + shift
    error = np.exp(a * x) * RNG.normal(size=n)
    weight = cal.density_ratio(x[:, None], there[:, None])
    found, plain = cal.summarize(error, np.ones(n), weight), cal.summarize(error, np.ones(n))
    for value, exact, every in (
        (found.scale**2, np.exp(2 * a * shift + 2 * a**2), error**2),
        (found.mae, np.sqrt(2 / np.pi) * np.exp(a * shift + a**2 / 2), np.abs(error)),
    ):
        # of a self-normalized mean; the fitted slope (error about 2/√n) moves it by less than as much again
        close(value, exact, 2 * np.sqrt(np.mean((weight * (every - exact)) ** 2) / n))
    close(plain.scale**2, np.exp(2 * a**2), np.std(error**2) / np.sqrt(n))
    assert found.scale > 1.2 * plain.scale


def test_bad_weights_and_features_are_errors():
    with pytest.raises(ValueError, match="2 errors but 2 std and 3 weights"):
        cal.nll(np.zeros(2), np.ones(2), np.ones(3))
    for weights in ([-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights must be finite"):
            cal.nll(np.zeros(2), np.ones(2), np.array(weights))
    with pytest.raises(ValueError, match=r"features \(2, 1\) and \(2, 2\)"):
        cal.density_ratio(np.zeros((2, 1)), np.zeros((2, 2)))

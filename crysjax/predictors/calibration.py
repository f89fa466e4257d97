"""Whether predicted uncertainties are true, and the factors that make them so.

Everything takes host arrays of held-out errors (prediction - truth) and predicted std, of one property, and leaves out
entries whose error or std is not finite. Calibrate on one held-out part, report on another.

What holds on held-out data need not hold where design goes: far from the training set (`by_group`, `by_distance`) and
among candidates chosen for a good prediction (`under_selection`). Where the truth is not known there, `weights` carry
the held-out errors over: the ratio of densities (`density_ratio`) of features under design and under the held-out
data (covariate shift: Shimodaira 2000; Sugiyama et al. 2007), self-normalized. It needs features that decide the
error's law, and overlap: `effective_count` says how many of the held-out crystals still speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_IN_GROUP = 20  # a root mean square of 20 is known to 16 %; fewer say too little to be listed


class Calibration(NamedTuple):
    """One property's summary."""

    count: int
    mae: float
    rmse: float
    nll: float  # mean Gaussian negative log likelihood
    scale: float  # root mean square of error / std; 1 is calibrated
    ence: float
    coverage_1: float  # share within one std; 0.683 if Gaussian
    coverage_2: float  # 0.954
    sharpness: float  # root mean square std
    rank_correlation: float  # Spearman, |error| against std: whether the uncertain ones are the wrong ones
    bias: float  # mean error, prediction - truth
    effective_count: float  # (sum w)² / sum w²; the count where nothing is weighted


class Reliability(NamedTuple):
    """Bins of equal count, by predicted std."""

    std: np.ndarray  # root mean square predicted std of each bin
    rmse: np.ndarray  # root mean square error of each bin
    count: np.ndarray


class Band(NamedTuple):
    """Calibration of the crystals between two distances from the training set."""

    low: float
    high: float
    calibration: Calibration


def fit_scale(error: np.ndarray, std: np.ndarray) -> float:
    """The factor on std with the highest Gaussian likelihood: the root mean square of error / std."""
    error, std, _ = _finite(error, std)
    return float(np.sqrt(np.mean((error / std) ** 2)))


class FittedSpread(NamedTuple):
    """A std out of the spread of an ensemble: `std² = (factor * spread ** power)² + floor²`."""

    factor: float
    floor: float
    power: float = 1.0


def fit_spread(
    error: np.ndarray, spread: np.ndarray, *, least_floor: float = 0.0, powers: tuple[float, float] = (1.0, 1.0)
) -> FittedSpread:
    """The spread of highest Gaussian likelihood, its floor at least `least_floor`, its power within `powers`.

    A spread alone is far too small where members happen to agree; the floor is what all of them miss alike. A power
    below 1 takes back what few members exaggerate: their spread varies more from crystal to crystal than the error.
    """
    from scipy.optimize import minimize

    error, spread, _ = _finite(error, spread, least=0.0)
    unit, size = (float(np.sqrt(np.mean(a**2))) or 1.0 for a in (error, spread))
    relative = np.maximum(spread / size, 1e-9)
    lowest = 2 * np.log(max(least_floor / unit, np.exp(-8)))

    def negative_log_likelihood(x: np.ndarray) -> float:
        variance = np.exp(x[0]) * relative ** (2 * x[2]) + np.exp(x[1])
        return float(np.mean((error / unit) ** 2 / variance + np.log(variance)) / 2)

    starts = [np.array([np.log(share), np.log(1 - share), p]) for share in (0.1, 0.5, 0.9) for p in {*powers}]
    bounds = [(-16, 8), (lowest, 8), powers]
    fits = [minimize(negative_log_likelihood, s, bounds=bounds, method="L-BFGS-B") for s in starts]
    a2, b2, power = min(fits, key=lambda fit: fit.fun).x
    return FittedSpread(float(np.exp(a2 / 2) * unit / size**power), float(np.exp(b2 / 2) * unit), float(power))


def floor_of_the_certain(error: np.ndarray, spread: np.ndarray) -> float:
    """Root mean square error among the half of the rows with the smaller spread.

    Where a large factor of the spread already explains the errors that were seen, the likelihood is free to put the
    floor at nothing. Crystals of which all members are certain, such as metals whose band gap is 0, would get a std of
    almost nothing, and a few in a hundred of them are wrong by electronvolts.
    """
    error, spread, _ = _finite(error, spread, least=0.0)
    certain = error[np.argsort(spread, kind="stable")[: max(len(error) // 2, 1)]]
    return float(np.sqrt(np.mean(np.square(certain))))


def coverage(error: np.ndarray, std: np.ndarray, levels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of errors inside the central Gaussian interval of each level: calibrated is `coverage == levels`."""
    from scipy.special import ndtri

    error, std, weight = _finite(error, std, weights)
    z = np.abs(error / std)
    return np.array([np.mean(weight * (z <= ndtri((1 + level) / 2))) for level in np.atleast_1d(levels)])


def miscalibration_area(error: np.ndarray, std: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area between the coverage curve and the diagonal, 0 to 0.5 (Kuleshov et al. 2018; Tran et al. 2020)."""
    levels = np.linspace(0.005, 0.995, 100)
    return float(np.mean(np.abs(coverage(error, std, levels, weights) - levels)))


def nll(error: np.ndarray, std: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean Gaussian negative log likelihood, in nats."""
    error, std, weight = _finite(error, std, weights)
    return float(np.mean(weight * (0.5 * (error / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi))))


def reliability(error: np.ndarray, std: np.ndarray, bins: int = 10, weights: np.ndarray | None = None) -> Reliability:
    """Predicted against found error in bins of equal count (or weight), sorted by std (Levi et al. 2022)."""
    error, std, weight = _finite(error, std, weights)
    order = np.argsort(std, kind="stable")
    if weights is None:
        parts = np.array_split(order, min(bins, len(std)))
    else:
        middle = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
        parts = [p for b in range(bins) if weight[p := order[np.floor(bins * middle) == b]].sum() > 0]
    root = lambda values: np.array([np.sqrt(np.average(values[p] ** 2, weights=weight[p])) for p in parts])  # noqa: E731
    return Reliability(root(std), root(error), np.array([len(p) for p in parts]))


def ence(error: np.ndarray, std: np.ndarray, bins: int = 10, weights: np.ndarray | None = None) -> float:
    """Expected normalized calibration error: mean |std - rmse| / std over the bins (Levi et al. 2022, eq. 8)."""
    curve = reliability(error, std, bins, weights)
    return float(np.mean(np.abs(curve.std - curve.rmse) / curve.std))


def ence_of_perfect(count: float, bins: int = 10) -> float:
    """What the ENCE of perfectly calibrated Gaussian errors is: 1/√(π n), n = count/bins errors in each bin.

    The root mean square of n of them over their std has mean 1 and variance 1/2n, to first order in 1/n.
    """
    return float(1 / np.sqrt(np.pi * count / bins))


def simulated_ence(std: np.ndarray, bins: int = 10, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """The ENCE of `draws` sets of Gaussian errors with exactly these std (m,): (draws,)."""
    rng, variance = np.random.default_rng(seed), np.sort(np.asarray(std, np.float64)) ** 2
    parts = np.array_split(variance, min(bins, len(variance)))
    ratios = [rng.standard_normal((draws, len(p)), np.float32) ** 2 @ (p / p.sum()) for p in parts]
    return np.abs(1 - np.sqrt(ratios)).mean(0)


def summarize(error: np.ndarray, std: np.ndarray, weights: np.ndarray | None = None) -> Calibration:
    """All of it for one property; `weights` (m,), such as a density ratio, need not be normalized."""
    error, std, weight = _finite(error, std, weights)
    mean = lambda values: float(np.mean(weight * values))  # noqa: E731
    given = None if weights is None else weight
    inside = coverage(error, std, np.array([0.6826895, 0.9544997]), given)
    return Calibration(
        len(error), mean(np.abs(error)), np.sqrt(mean(error**2)), nll(error, std, given),
        np.sqrt(mean((error / std) ** 2)), ence(error, std, weights=given), float(inside[0]), float(inside[1]),
        np.sqrt(mean(std**2)), _rank_correlation(np.abs(error), std, weight), mean(error), effective_size(weight),
    )  # fmt: skip


def by_group(
    error: np.ndarray, std: np.ndarray, groups: Sequence | np.ndarray, *, least: int = LEAST_IN_GROUP
) -> dict[str, Calibration]:
    """Calibration of each group, such as a chemical system, the largest first; of `least` known errors and more."""
    error, std, groups = np.asarray(error), np.asarray(std), np.asarray(groups)
    _same_length(error, groups=groups)
    known = np.isfinite(error) & np.isfinite(std)
    names, count = np.unique(groups[known], return_counts=True)
    large = [name for name, n in sorted(zip(names, count), key=lambda item: -item[1]) if n >= least]
    return {str(name): summarize(error[groups == name], std[groups == name]) for name in large}


def by_distance(error: np.ndarray, std: np.ndarray, distance: np.ndarray, bins: int = 5) -> list[Band]:
    """Calibration in quantiles of a distance to the training set (m,), the nearest first; any unit."""
    error, std, distance = np.asarray(error), np.asarray(std), np.asarray(distance)
    _same_length(error, distance=distance)
    known = np.flatnonzero(np.isfinite(error) & np.isfinite(std) & np.isfinite(distance))
    parts = np.array_split(known[np.argsort(distance[known], kind="stable")], min(bins, max(len(known), 1)))
    return [Band(float(distance[p[0]]), float(distance[p[-1]]), summarize(error[p], std[p])) for p in parts]


def under_selection(
    error: np.ndarray, std: np.ndarray, score: np.ndarray, sizes: Sequence[int] = (10, 100, 1000)
) -> dict[int, Calibration]:
    """Calibration among the crystals of the `k` highest scores, for each k: what optimization pressure does to it.

    A score made of the prediction favors those whose prediction errs to the good side (the winner's curse; Smith
    and Winkler 2006), which `bias` shows. Crystals of unknown truth can be selected and are then left out.
    """
    error, std, score = np.asarray(error), np.asarray(std), np.asarray(score)
    _same_length(error, score=score)
    order = np.argsort(-np.where(np.isnan(score), -np.inf, score), kind="stable")
    if not all(0 < k <= len(order) for k in sizes):
        raise ValueError(f"calibration: sizes {list(sizes)} of a selection; expected 1 to {len(order)}, the crystals")
    return {k: summarize(error[order[:k]], std[order[:k]]) for k in sizes}


def density_ratio(source: np.ndarray, target: np.ndarray, *, ridge: float = 1.0) -> np.ndarray:
    """p_target / p_source at the rows of `source`, up to a factor, with mean 1: (m, d), (k, d) -> (m,).

    Logistic regression of which of the two a row comes from: the log odds are the log ratio (Bickel et al. 2009).
    `ridge` penalizes coefficients of features standardized over both; add squares where variances differ. Weights grow
    without bound in the tails, so take features of a bounded range where the target is cut off, and see `imbalance`.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, softmax

    source, target = (np.asarray(a, np.float64) for a in (source, target))
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(f"density ratio: features {source.shape} and {target.shape}; expected (m, d) and (k, d)")
    both = np.concatenate([source, target])
    if not np.isfinite(both).all():
        raise ValueError("density ratio: a feature is not finite")
    spread = both.std(0)
    x = np.column_stack([(both - both.mean(0)) / np.where(spread > 0, spread, 1), np.ones(len(both))])
    y, penalty = np.arange(len(both)) >= len(source), np.append(np.full(both.shape[1], ridge), 0)

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        logit = x @ beta
        value = np.logaddexp(0, logit).sum() - logit[y].sum() + (penalty * beta**2).sum() / 2
        return value, x.T @ (expit(logit) - y) + penalty * beta

    beta = minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS").x
    return softmax(x[: len(source)] @ beta) * len(source)


def imbalance(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the source's features less the target's, in std of the target: (d,).

    Far from 0 the weights do not describe the target, whatever they are multiplied with.
    """
    source, target = (np.asarray(a, np.float64) for a in (source, target))
    away = np.average(source, weights=weights, axis=0) - target.mean(0)
    return away / np.where(target.std(0) > 0, target.std(0), 1)


def effective_size(weights: np.ndarray) -> float:
    """How many equally weighted rows know as much: (sum w)² / sum w² (Kish 1965)."""
    weights = np.asarray(weights, np.float64)
    return float(weights.sum() ** 2 / (weights**2).sum())


def _rank_correlation(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    """Spearman's, the ranks taken among all rows; NaN where one does not vary."""
    from scipy.stats import rankdata

    covariance = np.cov(rankdata(first), rankdata(second), aweights=weight) if len(first) > 1 else np.zeros((2, 2))
    size = np.sqrt(covariance[0, 0] * covariance[1, 1])
    return float(covariance[0, 1] / size) if size > 0 else float("nan")


def _same_length(error: np.ndarray, **others: np.ndarray) -> None:
    for name, values in others.items():
        if values.shape != error.shape:
            raise ValueError(f"calibration: {error.size} errors but {values.size} {name}; expected as many")


def _finite(
    error: np.ndarray, std: np.ndarray, weights: np.ndarray | None = None, least: float = np.finfo(np.float64).tiny
) -> tuple:
    """The entries that count, in float64, with weights of mean 1; an error where nothing is left or std is not > 0."""
    error, std = (np.asarray(a, np.float64).ravel() for a in (error, std))
    weights = np.ones(error.shape) if weights is None else np.asarray(weights, np.float64).ravel()
    if error.shape != std.shape or error.shape != weights.shape:
        also = "" if weights.shape == error.shape else f" and {weights.size} weights"
        raise ValueError(f"calibration: {error.size} errors but {std.size} std{also}; expected as many")
    keep = np.isfinite(error) & np.isfinite(std)
    if not keep.any():
        raise ValueError("calibration: no entry has both a finite error and a finite std")
    if (std[keep] < least).any():
        raise ValueError(f"calibration: the smallest std is {std[keep].min()}; expected positive numbers")
    total = weights[keep].sum()
    if not ((weights[keep] >= 0).all() and 0 < total < np.inf):
        raise ValueError("calibration: weights must be finite, not negative, and not all zero")
    return error[keep], std[keep], weights[keep] * keep.sum() / total

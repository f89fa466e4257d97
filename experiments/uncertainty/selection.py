"""Whether an uncertainty helps to choose: hits found against the budget of validations spent.

A ranking is one score per candidate, higher first; a hit is a candidate that meets the target when validated (bool, or
its probability, which makes an expectation). Candidates of equal score stand in random order, and what is reported is
the exact mean over these orders, so that a constant score is random selection. Host arrays over one pool of
candidates; bands and differences come from resampling the candidates with replacement (Efron 1979), a pool of the
same size each time, both rankings on the same resample where two are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Hits among the first `budget` candidates of a ranking, with a band."""

    budget: np.ndarray  # (b,) validations
    hits: np.ndarray  # (b,)
    low: np.ndarray  # (b,) lower end of the band
    high: np.ndarray  # (b,)


class Difference(NamedTuple):
    """Area under the hit curve of one ranking less that of another; the difference with an interval."""

    area: float
    other_area: float
    difference: float
    low: float
    high: float
    better: float  # share of resamples in which the first ranking is ahead, ties by half


def nearness(mean: np.ndarray, low: float, high: float) -> np.ndarray:
    """Score without uncertainty: minus the distance of the mean (m,) to the middle of the window.

    With one end infinite, how far the mean lies on the good side. It is the order of the probability of the window
    when all std are equal, so what differs from that is the uncertainty alone.
    """
    _check_window(low, high)
    if np.isinf(low):
        return -np.asarray(mean, np.float64)
    return np.asarray(mean, np.float64) if np.isinf(high) else -np.abs(np.asarray(mean, np.float64) - (low + high) / 2)


def bound(mean: np.ndarray, std: np.ndarray, beta: float) -> np.ndarray:
    """Score `beta std - mean` for a target where lower is better: bold for beta > 0 (LCB), cautious for beta < 0."""
    return beta * np.asarray(std, np.float64) - np.asarray(mean, np.float64)


def window_probability(mean: np.ndarray, std: np.ndarray, low: float, high: float) -> np.ndarray:
    """Score log P(low < y < high) of Gaussian predictions (m,), accurate in both tails; either end may be infinite."""
    from scipy.special import log_ndtr

    _check_window(low, high)
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if not (std > 0).all():
        raise ValueError(f"selection: the smallest std is {np.min(std)}; expected positive numbers")
    a, b = (low - mean) / std, (high - mean) / std
    a, b = np.where(a + b > 0, -b, a), np.where(a + b > 0, -a, b)  # mirrored to where Φ does not round to 1
    upper = log_ndtr(b)
    return upper + np.log1p(-np.exp(np.minimum(log_ndtr(a) - upper, -1e-300)))


def hits(score: np.ndarray, hit: np.ndarray, budgets: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mean hits (b,) among the first so many of a ranking: (m,), (m,) bool or probability."""
    counted = _counter(score, hit, np.asarray(budgets))
    return counted(np.ones(len(np.asarray(score))))


def random_hits(candidates: int, total: int, budgets: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std (b,) of the hits of a random selection when `total` of the candidates are hits: hypergeometric."""
    budget = np.asarray(budgets, np.float64)
    _check_budgets(budget, candidates)
    share = total / candidates
    variance = budget * share * (1 - share) * (candidates - budget) / max(candidates - 1, 1)
    return budget * share, np.sqrt(variance)


def random_best(values: np.ndarray, budgets: Sequence[int] | np.ndarray) -> np.ndarray:
    """Expected lowest value (b,) of a random selection of so many of `values` (m,), without replacement.

    The i-th smallest is the lowest of b with probability C(m - i, b - 1) / C(m, b), i from 1.
    """
    from scipy.special import gammaln

    values, budget = np.sort(np.asarray(values, np.float64)), np.asarray(budgets, np.float64)[:, None]
    m, i = len(values), np.arange(1, len(values) + 1)[None, :]
    _check_budgets(budget, m)
    possible = m - i >= budget - 1
    rest = np.where(possible, m - i - budget + 1, 0)
    log_ways = gammaln(m - i + 1) - gammaln(budget) - gammaln(rest + 1)
    log_all = gammaln(m + 1) - gammaln(budget + 1) - gammaln(m - budget + 1)
    return (np.where(possible, np.exp(log_ways - log_all), 0) * values[None, :]).sum(1)


def curve(
    score: np.ndarray,
    hit: np.ndarray,
    budgets: Sequence[int] | np.ndarray,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """`hits` with the central `level` of `draws` resampled pools, at each budget by itself.

    A resample knows only of hits and misses that happened: where all of the first are hits the band has no width.
    """
    budgets = np.asarray(budgets)
    counted = _counter(score, hit, budgets)
    resampled = np.stack([counted(times) for times in _resamples(len(np.asarray(score)), draws, seed)])
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Curve(budgets, hits(score, hit, budgets), low, high)


def area(score: np.ndarray, hit: np.ndarray, budget: int) -> float:
    """Area under the hit curve up to `budget` over that of a ranking that knows the truth: 1 is perfect.

    sum over b = 1..budget of hits(b), over the sum of min(b, number of hits). NaN where the pool has no hit.
    """
    return _areas(score, hit, budget)(np.ones(len(np.asarray(score))))


def compare(
    score: np.ndarray,
    other: np.ndarray,
    hit: np.ndarray,
    budget: int,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Area with `score`, say with uncertainty, less that with `other`, say without, over the same resampled pools."""
    first, second = _areas(score, hit, budget), _areas(other, hit, budget)
    once = np.ones(len(np.asarray(score)))
    change = np.array([first(times) - second(times) for times in _resamples(len(once), draws, seed)])
    low, high = np.quantile(change, [(1 - level) / 2, (1 + level) / 2])
    better = np.mean((change > 0) + 0.5 * (change == 0))
    return Difference(first(once), second(once), first(once) - second(once), float(low), float(high), float(better))


def _counter(score: np.ndarray, hit: np.ndarray, budgets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How often each candidate is in the pool (m,) -> hits (b,); the ranking is sorted once."""
    score, hit = np.asarray(score, np.float64), np.asarray(hit, np.float64)
    if score.ndim != 1 or score.shape != hit.shape or not len(score):
        raise ValueError(f"selection: scores {score.shape} and hits {hit.shape}; expected (m,) both, m > 0")
    if not np.isfinite(hit).all():
        raise ValueError(f"selection: {np.sum(~np.isfinite(hit))} candidates have no known outcome; leave them out")
    _check_budgets(budgets, len(score))
    score = np.where(np.isnan(score), -np.inf, score)
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.append(True, score[order][1:] != score[order][:-1]))

    def counted(times: np.ndarray) -> np.ndarray:
        # linear between the ends of a group of ties: the hypergeometric mean
        in_pool, found = (np.add.reduceat(a[order], starts).cumsum() for a in (times, times * hit))
        return np.interp(budgets, np.append(0, in_pool), np.append(0, found))

    return counted


def _areas(score: np.ndarray, hit: np.ndarray, budget: int) -> Callable[[np.ndarray], float]:
    """`area` as a function of how often each candidate is in the pool."""
    budgets, hit = np.arange(1, budget + 1), np.asarray(hit, np.float64)
    ranked, perfect = _counter(score, hit, budgets), _counter(hit, hit, budgets)

    def areas(times: np.ndarray) -> float:
        best = perfect(times).sum()
        return float(ranked(times).sum() / best) if best > 0 else float("nan")

    return areas


def _resamples(size: int, draws: int, seed: int):
    """How often each of `size` candidates is in each of `draws` resampled pools."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float64)


def _check_budgets(budgets: np.ndarray, candidates: int) -> None:
    if budgets.size == 0 or budgets.min() < 1 or budgets.max() > candidates:
        raise ValueError(f"selection: budgets {budgets.ravel().tolist()[:5]}; expected 1 to {candidates}")


def _check_window(low: float, high: float) -> None:
    if not low < high or (np.isinf(low) and np.isinf(high)):
        raise ValueError(f"selection: window {low} to {high}; expected low < high, one of them finite")

"""Whether predicted uncertainties are true, and the factors that make them so.

Everything takes host arrays of held-out errors (truth - prediction) and predicted std, of one property, and leaves out
entries of which either is not finite. Calibrate on one held-out part, report on another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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


class Reliability(NamedTuple):
    """Bins of equal count, by predicted std."""

    std: np.ndarray  # root mean square predicted std of each bin
    rmse: np.ndarray  # root mean square error of each bin
    count: np.ndarray


def fit_scale(error: np.ndarray, std: np.ndarray) -> float:
    """The factor on std with the highest Gaussian likelihood: the root mean square of error / std."""
    error, std = _finite(error, std)
    return float(np.sqrt(np.mean((error / std) ** 2)))


def fit_spread(error: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """(a, b) with the highest Gaussian likelihood of `std² = a² spread² + b²`: spread of an ensemble plus a floor.

    A spread alone is far too small where members happen to agree; the floor is what all of them miss alike.
    """
    from scipy.optimize import minimize

    error, spread = _finite(error, spread, least=0.0)
    unit, size = (float(np.sqrt(np.mean(a**2))) or 1.0 for a in (error, spread))

    def negative_log_likelihood(log_squares: np.ndarray) -> float:
        a2, b2 = np.exp(log_squares)
        variance = a2 * (spread / size) ** 2 + b2
        return float(np.mean((error / unit) ** 2 / variance + np.log(variance)) / 2)

    starts = [np.log([share, 1 - share]) for share in (0.1, 0.5, 0.9)]
    fits = [minimize(negative_log_likelihood, s, bounds=[(-16, 8)] * 2, method="L-BFGS-B") for s in starts]
    a2, b2 = np.exp(min(fits, key=lambda fit: fit.fun).x)
    return float(np.sqrt(a2) * unit / size), float(np.sqrt(b2) * unit)


def coverage(error: np.ndarray, std: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of errors inside the central Gaussian interval of each level: calibrated is `coverage == levels`."""
    from scipy.special import ndtri

    error, std = _finite(error, std)
    z = np.abs(error / std)
    return np.array([np.mean(z <= ndtri((1 + level) / 2)) for level in np.atleast_1d(levels)])


def miscalibration_area(error: np.ndarray, std: np.ndarray) -> float:
    """Area between the coverage curve and the diagonal, 0 to 0.5 (Kuleshov et al. 2018; Tran et al. 2020)."""
    levels = np.linspace(0.005, 0.995, 100)
    return float(np.mean(np.abs(coverage(error, std, levels) - levels)))


def nll(error: np.ndarray, std: np.ndarray) -> float:
    """Mean Gaussian negative log likelihood, in nats."""
    error, std = _finite(error, std)
    return float(np.mean(0.5 * (error / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)))


def reliability(error: np.ndarray, std: np.ndarray, bins: int = 10) -> Reliability:
    """Predicted against found error in bins of equal count, sorted by std (Levi et al. 2022)."""
    error, std = _finite(error, std)
    parts = np.array_split(np.argsort(std, kind="stable"), min(bins, len(std)))
    root = lambda values: np.array([np.sqrt(np.mean(values[p] ** 2)) for p in parts])  # noqa: E731
    return Reliability(root(std), root(error), np.array([len(p) for p in parts]))


def ence(error: np.ndarray, std: np.ndarray, bins: int = 10) -> float:
    """Expected normalised calibration error: mean |std - rmse| / std over the bins (Levi et al. 2022, eq. 8)."""
    curve = reliability(error, std, bins)
    return float(np.mean(np.abs(curve.std - curve.rmse) / curve.std))


def summarize(error: np.ndarray, std: np.ndarray) -> Calibration:
    """All of it for one property."""
    from scipy.stats import spearmanr

    error, std = _finite(error, std)
    inside = coverage(error, std, np.array([0.6826895, 0.9544997]))
    varied = np.ptp(std) > 0 and np.ptp(error) > 0
    rank = spearmanr(np.abs(error), std).statistic if varied else np.nan
    return Calibration(
        len(error), float(np.mean(np.abs(error))), float(np.sqrt(np.mean(error**2))), nll(error, std),
        fit_scale(error, std), ence(error, std), float(inside[0]), float(inside[1]),
        float(np.sqrt(np.mean(std**2))), float(rank),
    )  # fmt: skip


def _finite(error: np.ndarray, std: np.ndarray, least: float = np.finfo(np.float64).tiny) -> tuple:
    """The entries that count, in float64; an error where nothing is left or a std is not positive."""
    error, std = (np.asarray(a, np.float64).ravel() for a in (error, std))
    if error.shape != std.shape:
        raise ValueError(f"calibration: {error.size} errors but {std.size} std; expected as many")
    keep = np.isfinite(error) & np.isfinite(std)
    if not keep.any():
        raise ValueError("calibration: no entry has both a finite error and a finite std")
    if (std[keep] < least).any():
        raise ValueError(f"calibration: the smallest std is {std[keep].min()}; expected positive numbers")
    return error[keep], std[keep]

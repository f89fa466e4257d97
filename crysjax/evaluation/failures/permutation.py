"""Permutation tests of two sets of rows whose statistic is a sum over pairs: thousands of relabelings as one product.

Where both sets come from one law every choice of rows for the first is equally likely, so that the share of choices
with a larger statistic is an exact p-value at any size (Good 2005).
"""

from __future__ import annotations

import numpy as np


def drawn(samples: np.ndarray, reference: np.ndarray, most: int, seed: int, name: str) -> tuple:
    """At most `most` rows of each, and which of the samples; features standardized over both."""
    a, b = np.asarray(samples), np.asarray(reference)
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:] or a.ndim > 2:
        raise ValueError(f"{name}: samples {a.shape} and reference {b.shape}; expected two rows and as many columns")
    rng = np.random.default_rng(seed)
    rows, others = (rng.permutation(len(x))[:most] for x in (a, b))
    a, b = a[rows], b[others]
    if a.ndim == 2:
        both = np.concatenate([a, b]).astype(np.float64)
        if not np.isfinite(both).all():
            raise ValueError(f"{name}: a feature is not finite")
        both = (both - both.mean(0)) / np.where(both.std(0) > 0, both.std(0), 1)
        a, b = both[: len(a)], both[len(a) :]
    return a, b, rows


def distances(rows: np.ndarray) -> np.ndarray:
    """Euclidean distances of all rows (m, d) from each other: (m, m) float32."""
    from scipy.spatial.distance import cdist

    return cdist(rows, rows).astype(np.float32)


def sums_within(matrix: np.ndarray, n: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of a symmetric matrix over n rows and the same columns, and over all columns: the first n, then drawn ones.

    (1 + draws,) both; that all choices are equally likely is what permutation tests rest on.
    """
    rng, size = np.random.default_rng(seed + 1), len(matrix)
    member = np.zeros((1 + draws, size), np.float32)
    member[0, :n] = 1
    np.put_along_axis(member[1:], rng.random((draws, size)).argpartition(n - 1, axis=1)[:, :n], 1, axis=1)
    columns = member @ matrix
    return (columns * member).sum(1, dtype=np.float64), columns.sum(1, dtype=np.float64)


def critical(drawn: np.ndarray, level: float) -> float:
    """What a statistic has to exceed for a permutation p-value of at most `level`."""
    k = int(level * (len(drawn) + 1) + 1e-9)
    if k < 1:
        raise ValueError(f"a level of {level} needs at least {int(np.ceil(1 / level)) - 1} draws; got {len(drawn)}")
    return float(np.sort(drawn)[-k])

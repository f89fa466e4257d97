"""Magpie's statistics of a composition (Ward et al. 2016) in the scale that CDVAE fixed for its coverage metrics.

22 properties of the elements, of each the minimum, maximum, range, mean, mean absolute deviation and mode, weighted by
atomic fraction. The values equal matminer's preset "magpie" without imputation, which is what CDVAE was written with:
a statistic of an element that lacks the property is NaN, and 0 after scaling.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

FEATURES = 132


@lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Properties of the elements (NUM_SPECIES, 22), mean and standard deviation of the statistics (132,)."""
    found = json.loads((Path(__file__).parent / "magpie.json").read_text())
    return tuple(np.array(found[name], np.float64) for name in ("elements", "mean", "std"))


def statistics(compositions: np.ndarray) -> np.ndarray:
    """The statistics of compositions (m, NUM_SPECIES), atom counts or fractions: (m, 132), six per property."""
    counts = np.asarray(compositions, np.float64)
    if counts.ndim != 2 or counts.shape[1] != len(_table()[0]) or not (counts.sum(1) > 0).all():
        raise ValueError(f"magpie: compositions of shape {counts.shape}, expected (m, {len(_table()[0])}), none empty")
    return np.array([_of_one(row) for row in counts]).reshape(-1, FEATURES)


def _of_one(counts: np.ndarray) -> np.ndarray:
    elements = np.flatnonzero(counts)
    values, share = _table()[0][elements], counts[elements] / counts[elements].sum()
    mean = share @ values
    commonest = values[np.isclose(share, share.max())].min(0)  # of several modes the smallest
    low, high = values.min(0), values.max(0)
    return np.stack([low, high, high - low, mean, share @ np.abs(values - mean), commonest], axis=1).ravel()


def scaled(values: np.ndarray) -> np.ndarray:
    """Statistics (m, 132) in CDVAE's scale, NaN as 0."""
    _, mean, std = _table()
    values = (np.asarray(values, np.float64) - mean) / std
    return np.where(np.isnan(values), 0.0, values)

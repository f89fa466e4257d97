"""Mean and standard deviation of labels in float64, and an error where a single one makes all others alike."""

from __future__ import annotations

import numpy as np

LOST = 0.5
"""Share of the different values that may become equal in float32 when they are scaled."""

FEW = 0.1
"""Share of the values (or a single one) that may set the scale alone; more are a distribution with a narrow peak."""


def moments(values: np.ndarray, what: str, names: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and standard deviation of finite values (m,); `what` and `names` (m,) are for the error.

    The error names the value farthest from the median, if the deviation is not finite or float32 cannot tell most of
    the scaled values apart.
    """
    exact = np.asarray(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(exact.mean()), float(exact.std())
        worst = int(np.abs(exact - np.median(exact)).argmax())
        where = f" of {names[worst]}" if names is not None else f" in row {worst + 1}"
        if not (np.isfinite(mean) and abs(std) <= np.finfo(np.float32).max):
            raise ValueError(f"{what}: the value {exact[worst]:g}{where} makes the scale of all {len(exact)} infinite")
        scaled = np.float32((exact - mean) / (std or 1))
    different, left = len(np.unique(np.float32(exact))), len(np.unique(scaled))
    far = int((np.abs(exact - np.median(exact)) > 1e-3 * std).sum())
    if different > 2 and left < LOST * different and far <= max(1, FEW * len(exact)):
        raise ValueError(
            f"{what}: the value {exact[worst]:g}{where} sets a scale of {std:.3g}, on which {different} different "
            f"values become {left}; correct it, or leave it empty if it stands for an unknown value"
        )
    return mean, std

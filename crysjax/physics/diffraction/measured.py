"""A measured powder pattern before it is solved, and what of the candidates explains it afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from crysjax.data.datasets import Dataset
from crysjax.data.readers import powder
from crysjax.physics.diffraction.pattern import Reflections, Shape, profile
from crysjax.physics.diffraction.solve import RWP
from crysjax.physics.diffraction.table import STEP_DEGREE
from crysjax.terminal import say

BACKGROUND = 0.02  # of the strongest point: what nine tenths of the points stay above tells that none was taken off
TERMS = 6  # of a background that is fitted without being asked
SOLVED = "solved"


def told(candidates: Dataset, accept: float) -> Dataset:
    """Candidates with a property `solved`, 1 or 0; those that do not explain the pattern are called misfits."""
    solved = candidates.properties[RWP] <= accept
    ids = np.array([name if good else f"misfit-{k:04d}" for k, (name, good) in enumerate(zip(candidates.ids, solved))])
    return replace(candidates, ids=ids, properties=candidates.properties | {SOLVED: solved.astype(np.float32)})


def read(path: Path, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """2θ and intensity of a file; a list of peaks is broadened by `shape`. What is made of it is told."""
    found = powder.read(path)
    x, y = found.two_theta, found.intensity
    say(f"{path}: {len(x)} {'points of a profile' if found.is_profile else 'peaks'}")
    if found.unread:
        say(f"{path}: not used: columns {', '.join(found.unread)}", err=True)
    if not found.is_profile:
        step = min(STEP_DEGREE, shape.w**0.5 / 2)
        grid = np.arange(max(x.min() - 5, 1), min(x.max() + shape.w**0.5, 179), step)  # more may lie beyond
        return grid, profile(Reflections(x, y, np.array(True)), grid, shape)
    return x, y


def of_instrument(path: Path, y: np.ndarray, background: int | None, zero: float | None) -> dict:
    """Background and zero shift to fit: what is asked for, else both if the pattern has a background, as measured."""
    floor = np.quantile(y, 0.1) / max(y.max(), 1e-300)
    measured = floor > BACKGROUND
    if background is None:
        background = TERMS if measured else 0
    if measured:
        fitted = f"fitted by {background} terms" if background else "not fitted and counts as misfit"
        say(f"{path}: a background of about {_range(y)} % of the strongest point, {fitted}", err=True)
    if zero is not None and not abs(zero) <= 1:
        raise ValueError(f"--zero-shift {zero}: expected degrees, from -1 to 1")
    return {"background": background, "zero_degree": 0.0 if zero is None and not measured else zero}


def _range(y: np.ndarray) -> str:
    """From where to where a background goes, in % of the strongest point: by the lower points of each tenth."""
    low = [100 * np.quantile(part, 0.1) / y.max() for part in np.array_split(y, 10) if len(part)]
    return f"{min(low):.0f} to {max(low):.0f}"

"""Powder patterns of a data set as one table: a row per peak, or per point of a profile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysjax.chemistry.scattering import Scattering
from crysjax.data import files
from crysjax.data.datasets import Dataset
from crysjax.data.readers.powder import ANGLE, ID, INTENSITY
from crysjax.physics.diffraction.pattern import Reflections, Shape, profile
from crysjax.physics.diffraction.peaks import Peaks, peaks

STEP_DEGREE = 0.05


class Patterns(NamedTuple):
    """The patterns of a data set, crystal by crystal."""

    ids: np.ndarray  # (m,)
    peaks: list[Peaks]  # with a reason where there are none
    two_theta: np.ndarray  # (g,) degrees, in steps of at most half a width
    profile: np.ndarray | None  # (m, g) the peaks broadened, where asked for; NaN where there are none


def patterns(
    crystals: Dataset, table: Scattering, *, angles: tuple[float, float], fwhm_degree: float, profiles: bool
) -> Patterns:
    """Peaks of every crystal between two angles, and their profiles."""
    (low, high), step = angles, min(STEP_DEGREE, fwhm_degree / 2)
    found = peaks(crystals, table, two_theta_degree=angles)
    grid, smooth = np.arange(low, high + step / 2, step), None
    if profiles:
        smooth = np.full((len(found), len(grid)), np.nan)
        for k, one in enumerate(found):
            if not one.reason:
                lines = Reflections(one.two_theta, one.intensity, np.array(True))
                smooth[k] = profile(lines, grid, Shape(w=fwhm_degree**2))
    return Patterns(crystals.ids, found, grid, smooth)


def csv_text(said: Patterns) -> str:
    """The profiles where there are some, else the peaks."""
    lines: list[tuple] = []
    for k, (name, one) in enumerate(zip(said.ids, said.peaks)):
        if said.profile is not None and not one.reason:
            lines += [(name, f"{x:.4f}", f"{y:.6g}") for x, y in zip(said.two_theta, said.profile[k])]
        elif not one.reason:
            columns = zip(one.two_theta, one.intensity, one.d_angstrom, one.hkl.tolist(), one.multiplicity)
            lines += [(name, f"{x:.5f}", f"{y:.5f}", f"{d:.6f}", *h, n) for x, y, d, h, n in columns]
    more = [] if said.profile is not None else ["d_angstrom", "h", "k", "l", "multiplicity"]
    return files.csv_text([ID, ANGLE, INTENSITY, *more], lines)

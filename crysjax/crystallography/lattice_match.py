"""Which lattices can be mapped onto one another within tolerances, for many at once.

StructureMatcher compares two reduced structures of one composition at equal volume, and its first step looks for bases
of the first lattice whose lengths and angles are those of the second within the tolerances. Where there is none it
answers "no match", so the same search over many second lattices at once rejects pairs exactly: every basis of the first
lattice is a point of three log lengths and three angles, every second lattice is one too, and a mapping is a pair of
points that lie in one another's box of tolerances. Bases are the integer matrices of determinant 1 or -1.
"""

from __future__ import annotations

import numpy as np

_SLACK_LOG, _SLACK_DEGREE = 1e-6, 1e-4  # of rounding: what is closer to the limit than this is not rejected


def parameters(lattice: np.ndarray) -> np.ndarray:
    """Log lengths of a, b, c at volume 1, then alpha, beta, gamma in degrees: (..., 3, 3) rows -> (..., 6)."""
    lattice = np.asarray(lattice, float)
    volume = np.abs(np.linalg.det(lattice))[..., None]
    length = np.linalg.norm(lattice, axis=-1)
    unit = lattice / length[..., None]
    cosine = [(unit[..., i, :] * unit[..., j, :]).sum(-1) for i, j in ((1, 2), (0, 2), (0, 1))]
    return np.concatenate([np.log(length) - np.log(volume) / 3, _degrees(np.stack(cosine, -1))], -1)


def mappable(first: np.ndarray, others: np.ndarray, *, ltol: float, angle_degree: float) -> np.ndarray:
    """Whether some basis of `first` (3, 3) has the shape of each of `others` (m, 3, 3), at equal volume: (m,) bool.

    `ltol` is relative (a length is between 1 / (1 + ltol) and 1 + ltol of the other's). True for every pair that
    pymatgen's `Lattice.find_all_mappings` maps by a matrix of determinant 1 or -1, and for no other pair but those
    within rounding (1e-6 of a length, 1e-4 degrees) of the limits.
    """
    from scipy.spatial import cKDTree

    others = np.asarray(others, float).reshape(-1, 3, 3)
    if not len(others):
        return np.zeros(0, bool)
    width = np.repeat([np.log1p(ltol) + _SLACK_LOG, angle_degree + _SLACK_DEGREE], 3)
    targets = parameters(others)
    first = np.asarray(first, float) / np.cbrt(abs(np.linalg.det(first)))
    possible = _long_enough(first, targets, width)
    if possible.any():
        box = targets[possible].min(0) - width, targets[possible].max(0) + width
        found = bases(first, *box)
        distance = cKDTree(found / width).query(targets[possible] / width, p=np.inf, distance_upper_bound=1.0)[0]
        possible[possible] = np.isfinite(distance)
    return possible


def bases(lattice: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The `parameters` of every basis of a lattice (3, 3) of volume 1 that lie between `low` and `high` (6,): (n, 6).

    A basis and its negative have the same parameters and count once.
    """
    whole, length = _vectors(lattice, high[:3].max())
    a, b, c = ((length >= low[i]) & (length <= high[i]) for i in range(3))
    a &= _upper_half(whole)
    unit = whole @ lattice / np.exp(length)[:, None]
    alpha = _degrees(unit[b] @ unit[c].T)
    alpha_fits = (alpha >= low[3]) & (alpha <= high[3])
    found = [np.zeros((0, 6))]
    for i in np.flatnonzero(a):
        beta, gamma = _degrees(unit[c] @ unit[i]), _degrees(unit[b] @ unit[i])
        volume = np.cross(whole[i], whole[b]) @ whole[c].T
        fits = alpha_fits & (np.abs(volume) == 1) & ((beta >= low[4]) & (beta <= high[4]))
        j, k = np.nonzero(fits & ((gamma >= low[5]) & (gamma <= high[5]))[:, None])
        columns = [np.full(len(j), length[i]), length[b][j], length[c][k], alpha[j, k], beta[k], gamma[j]]
        found.append(np.stack(columns, -1))
    return np.concatenate(found)


def _long_enough(first: np.ndarray, targets: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Whether a and b of each target are as long as the shortest two vectors of `first`: spares long searches."""
    whole, length = _vectors(first, np.log(np.sort(np.linalg.norm(first, axis=1))[1]) + 1e-9)
    whole, length = whole[np.argsort(length)], np.sort(length)
    second = np.flatnonzero(np.abs(np.cross(whole[0], whole)).sum(-1) > 0)[0]
    shortest = np.sort(targets[:, :3], axis=1)[:, :2] + width[0]
    return (shortest >= length[[0, second]]).all(1)


def _vectors(lattice: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Integer combinations (n, 3) of the rows up to a log length, zero left out, and their log lengths (n,)."""
    reach = np.floor(np.exp(longest) * np.linalg.norm(np.linalg.inv(lattice), axis=0) + 1e-9).astype(int)
    whole = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    square = np.square(whole @ lattice).sum(-1)
    kept = (square > 0) & (square <= np.exp(2 * longest))
    return whole[kept].astype(float), 0.5 * np.log(square[kept])


def _upper_half(whole: np.ndarray) -> np.ndarray:
    """One of each pair of opposite vectors: the one whose first number that is not 0 is positive."""
    x, y, z = whole.T
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))


def _degrees(cosine: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))

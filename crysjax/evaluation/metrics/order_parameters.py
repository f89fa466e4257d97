"""Local structure order parameters of sets of neighbors: how much a site looks like each ideal motif.

The parameters of Zimmermann and Jain (2020), built on Peters (2009), with the constants that pymatgen and matminer's
"ops" preset give them, and the bond order parameters of Steinhardt et al. (1983). Neighbor j stands at the north
pole, k sets the prime meridian, and every other neighbor m adds what its polar angle theta and azimuth phi are worth;
all triples (j, k, m) of all sets of one size are worked on together. Steinhardt's sums over spherical harmonics are
sums of Legendre polynomials over pairs, by the addition theorem.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

LARGEST = 24
"""The largest coordination number with a place in the fingerprint."""

_VERY_SMALL = 1e-12  # length of a projected unit vector that has no direction
_SPP = 2.356194490192345  # 135 degrees: polar angles from here on belong to the south pole


class Angles(NamedTuple):
    """Of `b` sets of `n` neighbors. Angles between directions in radians and as shares of pi."""

    cosine: np.ndarray  # (b, n, n)
    theta: np.ndarray  # (b, n, n) of j and k
    share: np.ndarray  # (b, n, n) theta / pi
    phi: np.ndarray  # (b, n, n, n) azimuth of m seen from pole j and meridian k
    pair: np.ndarray  # (n, n) bool: j and k differ
    meridian: np.ndarray  # (b, n, n) bool: k is not at a pole
    triple: np.ndarray  # (b, n, n, n) bool: j, k, m differ and k has a meridian
    counted: np.ndarray  # (b, n, n, n) bool: and m has an azimuth


def angles(directions: np.ndarray) -> Angles:
    """Angles of unit vectors (b, n, 3)."""
    n = directions.shape[1]
    cosine = np.clip(np.einsum("bix,bjx->bij", directions, directions), -1, 1)
    across = directions[:, None] - cosine[..., None] * directions[:, :, None]  # of k, seen along j
    length = np.linalg.norm(across, axis=-1)
    meridian = length >= _VERY_SMALL
    across = across / np.where(meridian, length, 1)[..., None]
    phi = np.arccos(np.clip(np.einsum("bjkx,bjmx->bjkm", across, across), -1, 1))
    pair = ~np.eye(n, dtype=bool)
    differ = pair[:, :, None] & pair[:, None, :] & pair[None, :, :]
    triple = differ[None] & meridian[..., None]
    theta = np.arccos(cosine)
    return Angles(cosine, theta, theta / np.pi, phi, pair, meridian, triple, triple & meridian[:, :, None, :])


def _bell(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x)


def _largest(a: Angles, of_k: np.ndarray, k_counts: np.ndarray, of_m: np.ndarray, m_counts: np.ndarray) -> np.ndarray:
    """The largest mean contribution over poles j and meridians k: (b,)."""
    total = np.where(k_counts, of_k, 0) + np.where(m_counts, of_m, 0).sum(-1)
    count = k_counts + m_counts.sum(-1)
    mean = np.where(count > 0, total / np.maximum(count, 1), 0)
    return np.where(a.pair, mean, -np.inf).max((1, 2))


def bent(a: Angles, target: float, width: float) -> np.ndarray:
    """A bond angle of `target` times 180 degrees, mean over pairs."""
    return _bell(width * (a.share - target))[:, a.pair].mean(1)


def at_angle(a: Angles, target: float, width: float, fold: float) -> np.ndarray:
    """Trigonal planar and tetrahedral: all at the target angle, azimuths `fold` times around."""
    of_k = _bell(width * (a.share - target))
    of_m = of_k[:, :, None] * np.cos(fold * a.phi) ** 2
    return _largest(a, of_k, a.pair[None] & np.ones_like(of_k, bool), of_m, a.counted)


def pentagon(a: Angles, split: float = 0.6, width: float = 19.333) -> np.ndarray:
    """Pentagonal planar: neighbors at 72 or 144 degrees in one plane."""
    near = np.where(a.theta <= split * np.pi, 0.4, 0.8)
    of_k = _bell(width * (a.share - near))
    of_m = of_k[:, :, None] * np.cos(a.phi) ** 2
    return _largest(a, of_k, a.pair[None] & np.ones_like(of_k, bool), of_m, a.counted)


def pyramid(a: Angles, width: float, fold: float) -> np.ndarray:
    """T-shapes and pyramids: one at the pole, all others on the equator."""
    of_k = _bell(width * (a.share - 0.5))
    of_m = of_k[:, :, None] * np.cos(fold * a.phi) ** 2
    return _largest(a, of_k, a.pair[None] & np.ones_like(of_k, bool), of_m, a.counted)


def two_poles(
    a: Angles,
    width: float,
    pole_width: float,
    fold: float,
    *,
    pole_from: float = _SPP,
    tilt: float = 0.0,
    phi_below: float = np.inf,
) -> np.ndarray:
    """Bipyramids, octahedra, squares, see-saws and hexagons: north pole, south pole, and the equator `fold` times.

    With `tilt` the ring is not the equator but two rings that many times 180 degrees off it.
    """
    off = np.abs(a.share - 0.5) - tilt if tilt else a.share - 0.5
    ring, south = _bell(width * off), _bell(pole_width * (a.share - 1))
    above = a.theta < pole_from
    of_k, k_counts = ring, above & a.pair
    on_ring = a.counted & above[..., None] & above[:, :, None] & (a.phi < phi_below)
    at_pole = a.triple & ~above[:, :, None]
    of_m = np.where(at_pole, south[:, :, None], ring[:, :, None] * np.cos(fold * a.phi) ** 2)
    return _largest(a, of_k, k_counts, of_m, on_ring | at_pole)


def body_centered(a: Angles, pole_from: float = 2.5261129449194057, pole_width: float = 15.0) -> np.ndarray:
    """Body-centered cubic (Peters 2009, eq. 11): the opposite neighbor and three around each body diagonal.

    As defined it counts each pair once, with its first member at the pole, and so depends on the order of neighbors;
    where these have equal weights, ours and pymatgen's orders may differ, and with them the third digit.
    """
    n = a.cosine.shape[1]
    once = np.triu(a.pair)
    south = a.theta >= pole_from
    of_k = np.where(once & south, 6 * _bell(pole_width * (a.share - 1)), 0)
    side, x = np.where(a.theta > np.pi / 2, 1, -1), (a.theta - np.pi / 2) / np.arcsin(1 / 3)
    of_m = (side[..., None] * np.cos(3 * a.phi)) * (np.exp(0.5) * x * _bell(x))[:, :, None]
    total = of_k.sum((1, 2)) + np.where(a.counted & (once & ~south)[..., None], of_m, 0).sum((1, 2, 3))
    return total / (0.5 * n * (6 + (n - 2) * (n - 3)))


def cuboctahedron(a: Angles) -> np.ndarray:
    """Cuboctahedral: twelve neighbors at 60, 90, 120 and 180 degrees."""
    low, high, pole, pole_weight = 1.3089969389957472, 1.8325957145940461, 2.792526803190927, 1.8
    south = (a.theta >= pole) & a.pair
    flat = (a.theta > low) & (a.theta < high)
    at = np.where(a.theta < low, 1 / 3, 2 / 3)
    slanted = _bell(31.25 * (a.share - at))[:, :, None] * _bell(0.0556 * (np.sin(a.phi) - 0.81649658))
    in_plane = np.cos(a.phi) ** 2 * _bell(25.5 * (a.share - 0.5))[:, :, None]
    m_counts = a.counted & flat[..., None] & ((a.theta < pole) & (a.theta != low) & (a.theta != high))[:, :, None]
    total = np.where(south, pole_weight * _bell(28.75 * (a.share - 1)), 0)
    total = total + np.where(m_counts, np.where(flat[:, :, None], in_plane, slanted), 0).sum(-1)
    count = pole_weight * south + m_counts.sum(-1)
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), 0)
    return np.where(a.pair, mean, -np.inf).max((1, 2))


def steinhardt(a: Angles, order: int) -> np.ndarray:
    """Steinhardt's q of an order: the root of the mean Legendre polynomial over all pairs, each with itself too."""
    polynomial = np.polynomial.legendre.Legendre.basis(order)
    return np.sqrt(np.maximum(polynomial(a.cosine).mean((1, 2)), 0))


_TET = 0.6081734479693927  # 109.47 degrees over 180
_Q = tuple(partial(steinhardt, order=order) for order in (2, 4, 6))
_BENT = ((0.5, 15.15), (0.5802777777777778, 13.95), (0.666666666667, 13.25), (0.833333333333333, 12.45), (1, 8.667))

MOTIFS: dict[int, tuple[Callable[[Angles], np.ndarray], ...]] = {
    2: tuple(partial(bent, target=target, width=width) for target, width in _BENT),
    3: (
        partial(at_angle, target=0.66666666667, width=17.5, fold=1),  # trigonal planar
        partial(at_angle, target=_TET, width=18.33, fold=1.5),  # trigonal, not in a plane
        partial(pyramid, width=15.5, fold=1),  # T
    ),
    4: (
        partial(two_poles, width=17.7, pole_width=13.5, fold=1),  # square
        partial(at_angle, target=_TET, width=18.5, fold=1.5),  # tetrahedral
        partial(two_poles, width=27, pole_width=11.5, fold=2, phi_below=0.75 * np.pi),  # rectangular see-saw
        partial(two_poles, width=15.75, pole_width=12.75, fold=1.5),  # see-saw
        partial(pyramid, width=15.5, fold=1.5),  # trigonal pyramid
    ),
    5: (pentagon, partial(pyramid, width=14.9, fold=2), partial(two_poles, width=16.6, pole_width=12, fold=1.5)),
    6: (
        partial(two_poles, width=25, pole_width=7.5, fold=1, pole_from=2.6179938779914944, tilt=0.16666667),  # hexagon
        partial(two_poles, width=18, pole_width=15, fold=2),  # octahedron
        partial(pyramid, width=13.8, fold=2.5),  # pentagonal pyramid
    ),
    7: (partial(pyramid, width=12.5, fold=3), partial(two_poles, width=14.75, pole_width=12.5, fold=2.5)),
    8: (body_centered, partial(two_poles, width=13.6, pole_width=14.1, fold=3)),
    9: _Q,
    10: _Q,
    11: _Q,
    12: (cuboctahedron, *_Q),
}
"""The motifs of each coordination number, in the order of the fingerprint."""


def order_parameters(directions: np.ndarray) -> np.ndarray:
    """The order parameters of sets of `n` neighbors in directions (b, n, 3), unit vectors: (b, motifs of n)."""
    count = directions.shape[1]
    if count == 1:
        return np.ones((len(directions), 1))  # a single bond is one
    motifs = MOTIFS.get(count, ())
    if not motifs:
        return np.zeros((len(directions), 0))
    found = angles(directions)
    return np.stack([motif(found) for motif in motifs], axis=1)


def places() -> dict[int, slice]:
    """Where the weight and the order parameters of each coordination number stand in the fingerprint of 61 numbers."""
    found, start = {}, 0
    for count in range(1, LARGEST + 1):
        size = 2 if count == 1 else 1 + len(MOTIFS.get(count, ()))
        found[count] = slice(start, start + size)
        start += size
    return found

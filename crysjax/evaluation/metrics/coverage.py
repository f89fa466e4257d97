"""Coverage recall and precision (COV-R, COV-P) of CDVAE (Xie et al. 2022, appendix G; Ganea et al. 2021).

A reference crystal is recalled if some sample is near in structure and some sample, not necessarily the same, is near
in composition; a sample is precise if the like holds for the reference. Structures are the mean over sites of the
CrystalNN fingerprint (`coordination`), compositions Magpie's statistics in the scale that CDVAE fixed (`magpie`). CDVAE
has both made by matminer; the values here are the same to rounding and take a small part of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crysjax.data import files, parallel
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.evaluation.metrics import magpie
from crysjax.evaluation.metrics.coordination import site_fingerprints
from crysjax.evaluation.metrics.distributions import Interval, interval
from crysjax.physics.hull import hull

STRUCTURE_FEATURES = 61

_CHUNK = 64  # crystals handed to a process at a time
_INLINE = 256  # fewer are done before a second process has started
_BLOCK = 512  # rows of a block of distances


class Cutoffs(NamedTuple):
    """The largest distances that count as near, in units of the fingerprints."""

    structure: float
    composition: float


CUTOFFS = {"mp_20": Cutoffs(0.4, 10.0), "perov_5": Cutoffs(0.2, 4.0), "carbon_24": Cutoffs(0.2, 4.0)}
"""The thresholds of CDVAE and of the papers that compare to it."""


class Fingerprints(NamedTuple):
    """Of `m` crystals; a row of NaN has no fingerprint (a site without a closed Voronoi cell)."""

    structure: np.ndarray  # (m, d) mean over sites
    composition: np.ndarray  # (m, e) scaled


class Coverage(NamedTuple):
    """Shares with intervals, and the mean distances to the nearest (AMSD: structure, AMCD: composition)."""

    recall: Interval
    precision: Interval
    structure_recall: Interval
    structure_precision: Interval
    composition_recall: Interval
    composition_precision: Interval


def coverage(samples: Fingerprints, reference: Fingerprints, cutoffs: Cutoffs = CUTOFFS["mp_20"]) -> Coverage:
    """COV-R, COV-P and the mean nearest distances of samples against a reference.

    A sample without a fingerprint stays in the total of the precision, as in CDVAE. Reference crystals without one,
    which CDVAE does not allow, are missing.
    """
    parts = [_known(_checked(f, name)) for f, name in ((samples, "samples"), (reference, "reference"))]
    (ours, known), (theirs, there) = parts
    if not (known.any() and there.any()):
        raise ValueError(f"coverage: {known.sum()} samples and {there.sum()} reference crystals have a fingerprint")
    near = [nearest(a, b) for a, b in zip(ours, theirs)]
    hits = [np.all([d <= c for d, c in zip(side, cutoffs)], axis=0) for side in zip(*near)]
    precise = np.zeros(len(known), bool)
    precise[known] = hits[0]
    recall = interval(hits[1])._replace(missing=int((~there).sum()))
    means = [interval(distance) for pair in near for distance in reversed(pair)]
    return Coverage(recall, interval(precise), *means)


def _checked(found: Fingerprints, name: str) -> Fingerprints:
    arrays = Fingerprints(*(np.asarray(a, np.float64) for a in found))
    if any(a.ndim != 2 for a in arrays) or len(arrays.structure) != len(arrays.composition):
        raise ValueError(f"coverage: {name} of shapes {[a.shape for a in arrays]}, expected (m, d) and (m, e)")
    return arrays


def _known(found: Fingerprints) -> tuple[Fingerprints, np.ndarray]:
    known = np.isfinite(found.structure).all(1) & np.isfinite(found.composition).all(1)
    return Fingerprints(*(a[known] for a in found)), known


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each row of a (m, d) to its nearest of b (n, d), and of each of b to its nearest of a: (m,), (n,)."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"coverage: fingerprints of {a.shape[1]} and of {b.shape[1]} numbers")
    square = np.square(b).sum(1)
    to_b, best, to_a = np.empty(len(a), int), np.full(len(b), np.inf), np.zeros(len(b), int)
    for start in range(0, len(a), _BLOCK):
        part = a[start : start + _BLOCK]
        distance2 = np.square(part).sum(1)[:, None] + square[None] - 2 * part @ b.T
        to_b[start : start + len(part)] = distance2.argmin(1)
        here, value = distance2.argmin(0), distance2.min(0)
        to_a, best = np.where(value < best, here + start, to_a), np.minimum(best, value)
    return np.linalg.norm(a - b[to_b], axis=1), np.linalg.norm(b - a[to_a], axis=1)  # exact, unlike the expansion


# Making the arrays


def fingerprints(dataset: Dataset, *, processes: int = 2, cache: str | Path | None = None) -> Fingerprints:
    """The fingerprints of every crystal; with a `cache` (.npz) only of those that it lacks.

    Processes start with "spawn", so a script that calls this needs the usual `if __name__ == "__main__"` guard;
    `processes=1` starts none.
    """
    rows = entries(dataset)
    keys = [_key(row) for row in rows]
    known = _read_cache(cache)
    todo = {key: row for key, row in zip(keys, rows) if key not in known}
    if todo:
        known |= dict(zip(todo, _mapped(structure_fingerprints, list(todo.values()), processes)))
        _write_cache(cache, known)
    composition = magpie.scaled(magpie.statistics(hull.compositions(dataset)))
    return Fingerprints(np.stack([known[key] for key in keys]), composition)


def structure_fingerprints(rows: list[Entry]) -> np.ndarray:
    """Mean over the sites of each crystal of their CrystalNN fingerprint: (m, 61), NaN where a site has none."""
    none = np.full(STRUCTURE_FEATURES, np.nan)
    return np.stack([none if isinstance(f, str) else f.mean(0) for f in site_fingerprints(rows)])


def _mapped(function: Callable, rows: list[Entry], processes: int) -> list[np.ndarray]:
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    parts = parallel.each(function, chunks, processes, inline=_INLINE + 1, work=len(rows))
    return [answer for part in parts for answer in part]


def _key(row: Entry) -> str:
    parts = (np.asarray(row.numbers, np.int16), np.asarray(row.frac, np.float32), np.asarray(row.lattice, np.float32))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:32]


def _read_cache(path: str | Path | None) -> dict[str, np.ndarray]:
    if path is None or not Path(path).exists():
        return {}
    try:
        with files.npz(path, "a cache of fingerprints") as file:
            keys, values = file["keys"], file["values"]
    except files.Damaged:
        return {}  # they are simply made again
    if values.shape != (len(keys), STRUCTURE_FEATURES):
        raise ValueError(f"{path}: not a cache of fingerprints ({len(keys)} keys, values of shape {values.shape})")
    return dict(zip(keys.tolist(), values))


def _write_cache(path: str | Path | None, known: dict[str, np.ndarray]) -> None:
    if path is not None:
        files.write_npz(path, {"keys": np.array(list(known)), "values": np.stack(list(known.values()))})

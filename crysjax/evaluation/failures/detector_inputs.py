"""What the failure detectors compare, made out of data sets: distances, and what the training set knows."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.crystallography import contacts
from crysjax.crystallography.fingerprints import fingerprint
from crysjax.data.datasets import Dataset, Entry, entries


def closeness(dataset: Dataset) -> np.ndarray:
    """Shortest distance over the sum of the two covalent radii of each crystal, own images included: (m,)."""
    return contacts.contacts(dataset).closeness


def compositions(dataset: Dataset) -> np.ndarray:
    """Reduced formula of each crystal: (m,) str."""
    return np.array([formula(row.numbers) for row in entries(dataset)])


def seen_compositions(test: Dataset, train: Dataset) -> np.ndarray:
    """Whether the reduced formula of each test crystal occurs in the training set: (m,) bool."""
    return np.isin(compositions(test), np.unique(compositions(train)))


def seen_structures(test: Dataset, train: Dataset, *, tolerance: float = 1e-3) -> np.ndarray:
    """Whether each test crystal occurs in the training set up to `tolerance`: (m,) bool.

    The same reduced formula, a fingerprint (neighbor distances over the free length) that nowhere differs by more
    than `tolerance`, and a volume per atom that differs by less than three times that share.
    """
    tests, known = entries(test), defaultdict(list)
    wanted = {formula(row.numbers) for row in tests}
    for row in entries(train):
        if (name := formula(row.numbers)) in wanted:
            known[name].append(_marks(row))
    return np.array([_is_among(row, known.get(formula(row.numbers)), tolerance) for row in tests], bool)


def _is_among(row: Entry, known: list[np.ndarray] | None, tolerance: float) -> bool:
    if known is None:
        return False
    away = np.abs(np.stack(known) - _marks(row)[None])
    return bool(((away[:, 1:].max(1) <= tolerance) & (away[:, 0] < 3 * tolerance)).any())


def _marks(row: Entry) -> np.ndarray:
    """Logarithm of the volume per atom in Å^3, then the fingerprint."""
    volume = abs(np.linalg.det(np.asarray(row.lattice, np.float64))) / len(row.numbers)
    return np.concatenate([[np.log(volume)], fingerprint(row).ravel()])

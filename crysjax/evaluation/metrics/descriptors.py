"""Where a crystal lies in a space of structure and composition, for maps, diversity and tests of shift: 28 numbers.

Average minimum distances (`distances.amd`) to 20 neighbors in units of the free length, the logarithm of the volume an
atom, and mean and spread of three properties of its elements (`templates.element_table`) with the entropy of mixing.
All are of order one, depend on nothing but the crystal, and do not change with the choice of cell.
"""

from __future__ import annotations

import numpy as np

from crysjax.crystallography.distances import amd
from crysjax.data.datasets import Dataset
from crysjax.physics.hull import hull
from crysjax.retrieval.templates import element_table

NEIGHBORS = 20
SIZE = NEIGHBORS + 8


def descriptors(dataset: Dataset) -> np.ndarray:
    """(m, 28) float32."""
    volume = np.abs(np.linalg.det(dataset.lattice.astype(np.float64))) / dataset.num_atoms
    geometry = amd(dataset, k=NEIGHBORS) / np.cbrt(volume)[:, None]
    return np.concatenate([geometry, np.log(volume)[:, None], _composition(dataset)], 1).astype(np.float32)


def _composition(dataset: Dataset) -> np.ndarray:
    """Mean and standard deviation of the element table, and the entropy of mixing: (m, 7)."""
    counts = hull.compositions(dataset)
    share = counts / counts.sum(1, keepdims=True)
    table = element_table()[: share.shape[1]]
    mean = share @ table
    spread = np.sqrt(np.maximum(share @ table**2 - mean**2, 0))
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), 1, keepdims=True)
    return np.concatenate([mean, spread, entropy], 1)

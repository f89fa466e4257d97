"""New crystals without learning: a known structure with some of its elements replaced by chemical neighbors.

The control of every table of free samples (GNoME's first pipeline, Merchant et al. 2023, is of this kind, with
data-mined probabilities). An element is replaced by a nearer one more often: `exp(-distance / spread)` in
`templates.element_distance`.
"""

from __future__ import annotations

import numpy as np

from crysjax.data.datasets import Dataset, Entry, entries, from_entries
from crysjax.retrieval.templates import candidate, element_distance


def substituted(train: Dataset, count: int, *, seed: int = 0, share: float = 0.5, spread: float = 0.3) -> Dataset:
    """`count` crystals, each a random training structure with its elements replaced.

    Args:
        share: probability that an element is replaced, but one always is.
        spread: of the exponential law in the squared distance of elements; only elements of the training set are drawn.
    """
    rng = np.random.default_rng(seed)
    known = np.unique(train.numbers).astype(int)
    distance = element_distance()[known[:, None] - 1, known[None] - 1]
    weight = np.exp(-distance / spread) * (1 - np.eye(len(known)))
    chance = dict(zip(known.tolist(), weight / weight.sum(1, keepdims=True)))
    templates = entries(train)
    rows = [_replaced(templates[i], known, chance, share, rng) for i in rng.integers(len(templates), size=count)]
    made = [row._replace(id=f"substituted-{k:06d}", properties={}) for k, row in enumerate(rows)]
    return from_entries(made, provenance={"substituted": f"{len(train)} structures", "seed": seed})


def _replaced(template: Entry, known: np.ndarray, chance: dict, share: float, rng: np.random.Generator) -> Entry:
    """The template with some elements exchanged for others that it does not hold yet."""
    elements = np.unique(template.numbers).tolist()
    chosen = rng.random(len(elements)) < share
    chosen[rng.integers(len(elements))] = True
    mapping = {z: z for z in elements}
    for z in np.array(elements)[chosen].tolist():
        free = ~np.isin(known, list(mapping.values()))
        probability = chance[z] * free
        mapping[z] = int(rng.choice(known, p=probability / probability.sum()))
    return candidate(template, template, np.array([mapping[z] for z in template.numbers.tolist()]))

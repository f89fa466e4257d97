"""One of several samples of a composition: the one with the lowest predicted formation energy.

Structure prediction is a search, and drawing is its first half; here the second is a look by property heads, which
costs next to nothing. Samples with atoms too close do not count unless all have them. The heads see crystals as they
were drawn, not relaxed; `campaign/polymorphs` relaxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crysjax.crystallography import contacts
from crysjax.data import datasets
from crysjax.data.datasets import Dataset
from crysjax.data.entry import FORMATION_ENERGY as ENERGY
from crysjax.models import answers, registry
from crysjax.terminal import say

MOST = 1000  # samples of one composition


def energies(heads: str) -> registry.Model:
    """Property heads that predict a formation energy, by name or path; others are an error."""
    loaded = registry.load_model(heads, "heads")
    if ENERGY not in loaded.config["properties"]:
        raise ValueError(f"--by {heads}: predicts no {ENERGY}; expected heads that do, such as mp_20_heads")
    return loaded


def lowest(tries: Sequence[Dataset], heads: registry.Model) -> Dataset:
    """Row by row the sample of lowest predicted formation energy, which becomes a property (`predicted_...`).

    Args:
        tries: sets of samples, row i of each for the same composition.
        heads: see `energies`.
    """
    every, shape = datasets.concatenate(list(tries)), (len(tries), len(tries[0]))
    energy = answers.ask(heads, every).said.value[:, heads.config["properties"].index(ENERGY)].reshape(shape)
    close = ~np.asarray(contacts.apart(contacts.contacts(every))).reshape(shape)
    # in this order: whether there is an answer (there is none for what is no crystal), whether atoms are too close
    best = np.lexsort((np.nan_to_num(energy), close, np.isnan(energy)), axis=0)[0]
    silent, crowded = (int(np.all(leaf, 0).sum()) for leaf in (np.isnan(energy), np.isnan(energy) | close))
    if crowded:
        said = f"{crowded} of {shape[1]} compositions have no sample without atoms too close"
        said += f"; of {silent} of them the heads take no sample" if silent else ""
        say(f"crysjax: {said}", err=True)
    rows = np.arange(shape[1])
    found = datasets.take(every, best * shape[1] + rows)
    return replace(found, properties=found.properties | {f"predicted_{ENERGY}": energy[best, rows]})

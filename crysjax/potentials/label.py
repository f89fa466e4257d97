"""Energies, forces and stresses of a whole data set by a potential: labels for another one, or answers for a user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from crysjax.base import Params
from crysjax.data import batching, datasets
from crysjax.data.datasets import ENERGY, FORCES, STRESS, Dataset
from crysjax.potentials import learn
from crysjax.potentials.mlip import Potential


def label(
    dataset: Dataset,
    potential: Potential,
    params: Params,
    *,
    sites: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """The data set with `energy_ev_per_atom`, forces and stress; NaN where the potential has no answer."""
    largest = int(dataset.num_atoms.max())
    sites = max(sites, largest)
    shape = batching.Capacity(sites, max(sites * (largest - 1) // 2, 1), sites)
    edges = learn.all_edges(dataset, potential.cutoff_angstrom)
    room = learn.room_for_edges(edges, shape, dataset.num_atoms)
    groups = batching.assign(dataset.num_atoms, shape, edges=edges.count, max_edges=room)
    bare = replace(dataset, properties={ENERGY: np.full(len(dataset), np.nan, np.float32)}, site_properties={})
    energy, forces = bare.properties[ENERGY], np.full((len(dataset.numbers), 3), np.nan, np.float32)
    stress = np.full((6, len(dataset)), np.nan, np.float32)
    evaluate = jax.jit(potential.energy_forces_stress)
    for done, rows in enumerate(map(np.array, groups), 1):
        pack, labels = learn.labeled_pack(bare, edges, rows, shape, room)
        found = [np.asarray(a) for a in evaluate(params, pack, labels.graph)]
        own = datasets.site_index(dataset, rows)
        energy[rows] = found[0][: len(rows)] / dataset.num_atoms[rows]
        forces[own] = found[1][: len(own)]
        stress[:, rows] = [found[2][: len(rows), i, j] for i, j in learn.VOIGT]
        progress(done, len(groups))
    stress[:, ~np.isfinite(energy)] = np.nan
    forces[~np.isfinite(np.repeat(energy, dataset.num_atoms))] = np.nan
    known = {ENERGY: energy} | dict(zip(STRESS, stress))
    return replace(
        dataset, properties=dataset.properties | known, site_properties=dataset.site_properties | {FORCES: forces}
    )

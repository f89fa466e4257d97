"""What a potential is trained on: energies, forces and stresses of a pack, and how far it is from them.

The errors are those of Nequix (Koker et al. 2025) and MACE-MP: absolute ones, so that frames far from equilibrium,
whose forces are ten times larger, do not drown all others. Whatever a data set lacks is NaN and weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Params, num_sites, site_mask
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import ENERGY, FORCES, STRESS, Dataset
from crysjax.geometry.neighbors import Graph, crystal_edges
from crysjax.potentials.mlip import Potential

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class PotentialLabels(NamedTuple):
    """What is known of a pack; NaN where it is not."""

    graph: Graph
    energy: Array  # (b,) eV per atom
    forces: Array  # (n, 3) eV/Å
    stress: Array  # (b, 6) eV/Å³ in the order of `datasets.STRESS`


class HalfEdges(NamedTuple):
    """The radius graphs of a data set, half of the edges of each crystal, one crystal after another."""

    pair: np.ndarray  # (h, 2) int32 sites within the crystal
    shift: np.ndarray  # (h, 3) int32
    count: np.ndarray  # (m,) int64


def all_edges(dataset: Dataset, cutoff_angstrom: float) -> HalfEdges:
    """Radius graphs of every crystal, made once."""
    rows = [crystal_edges(e.frac, e.lattice, cutoff_angstrom) for e in datasets.entries(dataset)]
    pair, shift = (np.concatenate(parts).astype(np.int32) for parts in zip(*rows))
    return HalfEdges(pair, shift, np.array([len(p) for p, _ in rows], np.int64))


def room_for_edges(edges: HalfEdges, shape: Capacity, num_atoms: np.ndarray) -> int:
    """Half-edges that a pack of `shape` is given: those of crystals of average density, or of the largest one."""
    mean = edges.count.sum() / num_atoms.sum() * shape.sites
    return int(-(-max(1.05 * mean, edges.count.max()) // 128) * 128)


def labeled_pack(
    dataset: Dataset, edges: HalfEdges, rows: np.ndarray, shape: Capacity, room: int
) -> tuple[Pack, PotentialLabels]:
    """The crystals `rows` as one pack with its graph and labels."""
    start, sites = np.cumsum(edges.count) - edges.count, datasets.site_index(dataset, rows)
    ends, shifts, first = np.full((room, 2), shape.sites - 1, np.int32), np.zeros((room, 3), np.int32), 0
    placed = 0
    for row in rows:
        part, k = slice(start[row], start[row] + edges.count[row]), edges.count[row]
        ends[placed : placed + k], shifts[placed : placed + k] = edges.pair[part] + first, edges.shift[part]
        placed, first = placed + k, first + int(dataset.num_atoms[row])
    mask = (np.arange(room) < placed).astype(np.float32)
    sender, receiver = np.concatenate([ends[:, 1], ends[:, 0]]), np.concatenate([ends[:, 0], ends[:, 1]])
    graph = Graph(sender, receiver, np.concatenate([shifts, -shifts]), np.concatenate([mask, mask]),
                  np.zeros(shape.crystals, bool))  # fmt: skip
    energy, stress = np.full(shape.crystals, np.nan, np.float32), np.full((shape.crystals, 6), np.nan, np.float32)
    energy[: len(rows)] = dataset.properties[ENERGY][rows]
    for k, name in enumerate(STRESS):
        if name in dataset.properties:
            stress[: len(rows), k] = dataset.properties[name][rows]
    forces = np.full((shape.sites, 3), np.nan, np.float32)
    if FORCES in dataset.site_properties:
        forces[: len(sites)] = dataset.site_properties[FORCES][sites]
    return batching.pack_rows(dataset, rows, shape), PotentialLabels(graph, energy, forces, stress)


def element_energies(dataset: Dataset) -> np.ndarray:
    """Energies of the elements, eV per atom, that fit all crystals best (least squares): (NUM_SPECIES,)."""
    counts = np.zeros((len(dataset), NUM_SPECIES))
    np.add.at(counts, (np.repeat(np.arange(len(dataset)), dataset.num_atoms), dataset.numbers.astype(int) - 1), 1)
    share = counts / dataset.num_atoms[:, None]
    known = np.isfinite(dataset.properties[ENERGY])
    ridge = 1e-5 * np.eye(NUM_SPECIES)  # an element that never comes gets 0
    y = dataset.properties[ENERGY][known].astype(float)
    return np.linalg.solve(share[known].T @ share[known] + ridge, share[known].T @ y).astype(np.float32)


def force_loss(
    potential: Potential, *, energy_weight: float = 20.0, force_weight: float = 20.0, stress_weight: float = 5.0
) -> Callable:
    """`(params, key, pack, labels) -> (scalar, metrics)`.

    The defaults are Nequix's. Metrics are sums, and under `count/NAME` how many labels they sum over.

    Args:
        potential: what is trained.
        energy_weight: weight of the mean absolute error of the energy, 1/(eV/atom).
        force_weight: weight of the mean length of the error of the force on an atom, 1/(eV/Å).
        stress_weight: weight of the mean absolute error of the stress components, 1/(eV/Å³).
    """

    def loss(params: Params, key: Array, pack: Pack, labels: PotentialLabels) -> tuple[Array, dict]:
        energy, forces, stress = potential.energy_forces_stress(params, pack, labels.graph)
        atoms = num_sites(pack)
        stress = jnp.stack([stress[:, i, j] for i, j in VOIGT], -1)
        errors = {
            ENERGY: _absolute(energy / jnp.maximum(atoms, 1), labels.energy, atoms > 0),
            FORCES: _length(forces, labels.forces, site_mask(pack.occupancy) > 0),
            "stress_ev_per_a3": _absolute(stress, labels.stress, (atoms > 0)[:, None]),
        }
        sums = {name: error.sum() for name, (error, _) in errors.items()}
        counts = {name: known.sum().astype(energy.dtype) for name, (_, known) in errors.items()}
        weights = dict(zip(errors, (energy_weight, force_weight, stress_weight)))
        value = sum(weights[name] * sums[name] / jnp.maximum(counts[name], 1) for name in errors)
        metrics = {f"error_sum/{name}": total for name, total in sums.items()}
        return value, metrics | {f"count/{name}": count for name, count in counts.items()}

    return loss


def _absolute(found: Array, known: Array, real: Array) -> tuple[Array, Array]:
    there = jnp.isfinite(known) & jnp.isfinite(found) & real
    return jnp.abs(jnp.where(there, found - jnp.where(there, known, 0), 0)), there


def _length(found: Array, known: Array, real: Array) -> tuple[Array, Array]:
    """Length of the difference of vectors, with a slope of zero where they agree."""
    there = jnp.isfinite(known).all(-1) & real
    square = jnp.square(jnp.where(there[:, None], found - jnp.where(there[:, None], known, 0), 0)).sum(-1)
    return jnp.where(there, jnp.sqrt(square + 1e-12), 0), there

"""Streams of batches: entered anywhere, and labels that stay with their crystals."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest

from crysjax.data import batching, datasets
from crysjax.data.datasets import ENERGY, FORCES, STRESS, Entry, from_entries
from crysjax.geometry.neighbors import radius_graph_host
from crysjax.potentials import learn
from crysjax.potentials.mlip import mlip
from crysjax.training import tasks

SIZES, EPSILON = (1, 2, 3, 4), 0.0104


def lennard_jones(epsilon: float):
    return mlip(network="lennard_jones", numbers=(18,), epsilon_ev=epsilon, cutoff_angstrom=6.0)


ARGON = {"network": "lennard_jones", "numbers": (18,), "cutoff_angstrom": 6.0}


@pytest.fixture(scope="module")
def argon():
    """Random crystals with the energy, forces and stress of Lennard-Jones; every fourth lacks its stress."""
    rng, potential, rows = np.random.default_rng(0), mlip(**ARGON), []
    for i in range(24):
        n = SIZES[i % 4]
        lattice = (4.0 * np.eye(3) + rng.normal(size=(3, 3)) * 0.2) * n ** (1 / 3)
        rows.append(Entry(str(i), np.full(n, 18), rng.random((n, 3)), lattice, {}))
    plain = from_entries(rows)
    pack = batching.pack_rows(plain, np.arange(24), batching.Capacity(60, 60, 24))
    said = jax.jit(potential.energy_forces_stress)((), pack, radius_graph_host(pack, 6.0))
    energy, forces, stress = map(np.asarray, said)
    properties = {ENERGY: energy / plain.num_atoms}
    properties |= {
        name: np.where(np.arange(24) % 4, stress[:, a, b], np.nan) for name, (a, b) in zip(STRESS, learn.VOIGT)
    }
    return replace(plain, properties=properties, site_properties={FORCES: forces}), potential


@pytest.mark.parametrize("step", [1, 4, 11])
def test_a_stream_can_be_entered_anywhere(argon, step):
    dataset, _ = argon
    shape = batching.Capacity(8, 16, 6)
    whole = list(itertools.islice(tasks.stream(dataset, shape, 2, 5, (ENERGY,))(0), 14))
    tail = list(itertools.islice(tasks.stream(dataset, shape, 2, 5, (ENERGY,))(step), 14 - step))
    jax.tree.map(np.testing.assert_array_equal, whole[step:], tail)


def test_a_set_smaller_than_a_batch_is_refused(argon):
    dataset = datasets.take(argon[0], np.arange(4))
    with pytest.raises(ValueError, match="tiles: 9 packs per step, but the data set fills only"):
        next(tasks.stream(dataset, batching.Capacity(8, 16, 6), 9, 0, ())(0))


def test_labels_belong_to_their_crystals_and_the_right_potential_has_no_error(argon):
    """It made the labels: its own loss is rounding, and twice its depth is wrong by the labels themselves."""
    dataset, potential = argon
    edges, shape = learn.all_edges(dataset, 6.0), batching.Capacity(8, 16, 6)
    room = learn.room_for_edges(edges, shape, dataset.num_atoms)
    pack, labels = next(tasks.force_stream(dataset, edges, shape, room, 2, 0)(0))
    losses = [jax.jit(learn.force_loss(made)) for made in (potential, lennard_jones(2 * EPSILON))]
    for tile in range(2):
        one, known = jax.tree.map(lambda leaf, tile=tile: leaf[tile], (pack, labels))
        assert known.graph.mask.sum() == radius_graph_host(one, 6.0).mask.sum()
        forces = np.linalg.norm(known.forces[one.occupancy.sum(-1) > 0], axis=-1)
        whole = 20 * np.nanmean(np.abs(known.energy)) + 20 * forces.mean() + 5 * np.nanmean(np.abs(known.stress))
        (value, metrics), (doubled, _) = (loss((), None, one, known) for loss in losses)
        assert value < 1e-4 * whole
        np.testing.assert_allclose(doubled, whole, rtol=1e-4)
        assert metrics[f"count/{FORCES}"] == len(forces)
        assert int(metrics["count/stress_ev_per_a3"]) == np.isfinite(known.stress).sum()


def test_element_energies_of_an_additive_law_are_found():
    rng, own = np.random.default_rng(1), np.zeros(100)
    own[[2, 7, 21]] = -1.5, -4.0, 2.25
    rows = []
    for i in range(30):
        z = rng.choice([3, 8, 22], 4)
        rows.append(Entry(str(i), z, rng.random((4, 3)), 5 * np.eye(3), {ENERGY: float(own[z - 1].mean())}))
    found = learn.element_energies(from_entries(rows))
    np.testing.assert_allclose(found, own, atol=1e-4)

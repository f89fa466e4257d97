"""The traced gates against the host's, and against pymatgen's periodic neighbors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.element_properties import masses_amu
from crysjax.crystallography import contacts
from crysjax.data import batching
from crysjax.data.datasets import Entry, from_entries
from crysjax.evaluation import gates, validity
from crysjax.physics.density import of_pack_g_cm3


def random_compositions(count):
    draw = np.random.default_rng(0)
    for _ in range(count):
        kinds = draw.integers(1, 5)
        yield draw.choice(94, kinds, replace=False), draw.integers(1, 6, kinds)


def as_counts(rows, counts):
    return np.bincount(rows, weights=counts, minlength=NUM_SPECIES).astype(np.float32)


def test_traced_gate_equals_host():
    compositions = list(random_compositions(2000))
    gate = jax.jit(jax.vmap(gates.smact_gate(max_atoms=20)))
    traced = np.asarray(gate(jnp.asarray(np.stack([as_counts(r, c) for r, c in compositions]))))
    host = np.array([validity.smact_valid(np.repeat(r + 1, c)) for r, c in compositions])
    assert 0.1 < host.mean() < 0.9
    np.testing.assert_array_equal(traced, host)


def test_traced_gate_refuses_what_it_cannot_hold():
    gate = jax.jit(gates.smact_gate(max_atoms=4, max_elements=2))
    salt = jnp.zeros(NUM_SPECIES).at[jnp.array([10, 16])].set(1.0)
    assert gate(salt) and gate(2 * salt)
    assert not gate(3 * salt)  # 6 atoms
    assert not gate(salt.at[2].set(1.0))  # 3 elements
    assert not gate(0 * salt)


def pack_of(entries):
    dataset = from_entries(entries)
    shape = batching.Capacity(sites=64, pairs=256, crystals=len(entries) + 2)
    return jax.tree.map(jnp.asarray, batching.pack_rows(dataset, np.arange(len(entries)), shape))


def rock_salt(numbers, length, *, move=0.0):
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    frac = np.concatenate([corners, corners + np.array([[0.5 + move, 0, 0]])])
    return Entry("", np.repeat(numbers, 4), frac, length * np.eye(3), {})


def test_shortest_distances_equal_pymatgen():
    structures = pytest.importorskip("pymatgen.core")
    draw, entries = np.random.default_rng(1), []
    for _ in range(12):
        count = draw.integers(1, 5)
        entries.append(Entry("", draw.integers(1, 90, count), draw.random((count, 3)), 3 * np.eye(3) + draw.normal(0, 0.7, (3, 3)), {}))  # fmt: skip # noqa: E501
    pack = pack_of(entries)
    found = jax.jit(contacts.closest)(pack)
    distance = found.shortest_angstrom
    for entry, shortest in zip(entries, np.asarray(distance)):
        crystal = structures.Structure(entry.lattice, entry.numbers, entry.frac)
        neighbors = crystal.get_neighbor_list(8.0)[3]
        assert shortest == pytest.approx(neighbors.min(), rel=2e-5)
    radii = contacts.radii_angstrom()[np.stack([found.first, found.second])[:, : len(entries)] - 1].sum(0)
    np.testing.assert_allclose(
        found.distance_angstrom[: len(entries)], found.closeness[: len(entries)] * radii, rtol=1e-6
    )
    assert np.isinf(distance[len(entries) :]).all()


def test_each_gate_names_its_own_fault():
    entries = [
        rock_salt([11, 17], 5.64),  # salt
        rock_salt([11, 17], 5.64, move=-0.35),  # sites 0.85 Å apart
        rock_salt([11, 17], 9.4),  # 104 Å^3 per atom
        rock_salt([11, 2], 5.64),  # helium
        rock_salt([11, 17], 3.0),  # 3.4 Å^3 per atom, and too close
    ]
    found = jax.jit(gates.gates(max_atoms=8))(pack_of(entries))
    table = np.stack([found.apart, found.dense, found.neutral, found.passed], 1)[:5].tolist()
    assert table == [
        [True, True, True, True],
        [False, True, True, False],
        [True, False, True, False],
        [True, True, False, False],
        [False, False, True, False],
    ]
    assert not np.asarray(found.passed)[5:].any()  # unused slots
    assert found.volume_per_atom[0] == pytest.approx(5.64**3 / 8, rel=1e-5)
    assert found.distance_angstrom[0] == pytest.approx(2.82, rel=1e-5)


def test_nan_never_passes():
    entry = rock_salt([11, 17], 5.64)
    pack, gate = pack_of([entry, entry]), jax.jit(gates.gates(max_atoms=8))
    assert np.asarray(gate(pack).passed)[:2].tolist() == [True, True]
    broken = pack._replace(frac=pack.frac.at[3].set(jnp.nan))
    assert np.asarray(gate(broken).passed)[:2].tolist() == [False, True]
    broken = pack._replace(lattice=pack.lattice.at[1, 0, 0].set(jnp.nan))
    assert np.asarray(gate(broken).passed)[:2].tolist() == [True, False]


def test_gates_that_are_not_asked_let_pass():
    entries = [rock_salt([11, 2], 5.64), rock_salt([11, 17], 5.64, move=-0.35)]  # helium; too close
    found = jax.jit(gates.gates(max_atoms=8, names=["apart"]))(pack_of(entries))
    assert np.asarray(found.passed).tolist()[:3] == [True, False, False]  # and an unused slot
    assert np.asarray(found.neutral).tolist()[:3] == [True, True, False]
    assert gates.why(found, [0, 1])[0] == "" and gates.why(found, [1])[0].startswith(gates.SAID["apart"])


def test_a_window_of_density_is_a_gate():
    """Rock salt has 2.16 g/cm³ at 5.64 Å; at 6.2 Å it has 1.63."""
    bounds = {gates.DENSITY: gates.Bound(of_pack_g_cm3(masses_amu()), low=2.0, high=3.0)}
    found = jax.jit(gates.gates(max_atoms=8, bounds=bounds))(pack_of([rock_salt([11, 17], a) for a in (5.64, 6.2)]))
    np.testing.assert_allclose(found.more[gates.DENSITY].value[:2], [2.164, 1.629], atol=2e-3)
    assert np.asarray(found.passed).tolist() == [True, False, False, False]
    assert gates.why(found, [0, 1]) == ["", "density out of range: 1.63"]
    assert list(gates.verdicts(found)) == [*gates.REASONS, gates.DENSITY]

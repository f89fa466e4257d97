"""Packs: nothing lost, nothing mixed, reproducible order, and failures that surface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal, num_sites, one_hot, sum_by_crystal
from crysjax.data import batching, datasets


def random_dataset(count: int = 60, seed: int = 0) -> datasets.Dataset:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 13, count).astype(np.int32)
    sites = sizes.sum()
    lattice = (5 * np.eye(3)[None] + rng.normal(size=(count, 3, 3))).astype(np.float32)
    ids = np.array([f"id-{k}" for k in range(count)])
    energy = np.where(rng.random(count) < 0.3, np.nan, rng.normal(size=count)).astype(np.float32)
    numbers, frac = rng.integers(1, 90, sites).astype(np.uint8), rng.random((sites, 3)).astype(np.float32)
    return datasets.Dataset(ids, sizes, numbers, frac, lattice, {"energy_ev": energy}, np.full(count, "train"), {})


def test_packing_and_unpacking_returns_every_crystal():
    dataset = random_dataset()
    shape = batching.capacity(dataset.num_atoms, pairs=128)
    batch = batching.pack_dataset(dataset, shape)
    order = batch.index[batch.index >= 0]
    assert sorted(order.tolist()) == list(range(len(dataset)))
    for crystal, row in zip(batching.unpack(batch.pack), order):
        one = datasets.take(dataset, np.array([row]))
        np.testing.assert_array_equal(crystal.occupancy.argmax(-1) + 1, one.numbers)
        np.testing.assert_array_equal(crystal.frac, one.frac)
        np.testing.assert_array_equal(crystal.lattice, one.lattice[0])


def test_pairs_are_all_i_below_j_within_a_crystal_and_nothing_else():
    dataset = random_dataset()
    batch = batching.pack_dataset(dataset, batching.capacity(dataset.num_atoms, pairs=128))
    for t in range(len(batch.index)):
        owner, pairs, mask = (leaf[t] for leaf in batch.pack[3:])
        real = pairs[mask > 0]
        assert (real[:, 0] < real[:, 1]).all() and (owner[real[:, 0]] == owner[real[:, 1]]).all()
        assert (np.diff(pairs[:, 0]) >= 0).all()
        sizes = dataset.num_atoms[batch.index[t][batch.index[t] >= 0]]
        assert len({tuple(p) for p in real}) == len(real) == (sizes * (sizes - 1) // 2).sum()


def test_padding_adds_nothing_to_sums():
    dataset = random_dataset()
    batch = batching.pack_dataset(dataset, batching.capacity(dataset.num_atoms, pairs=128))
    pack = jax.tree.map(lambda leaf: jnp.asarray(leaf[-1]), batch.pack)
    expected = np.where(batch.index[-1] >= 0, dataset.num_atoms[batch.index[-1]], 0)
    np.testing.assert_array_equal(num_sites(pack), expected)
    np.testing.assert_array_equal(sum_by_crystal(jnp.ones_like(pack.owner, jnp.float32), pack), expected)


def test_an_epoch_is_a_function_of_seed_and_epoch_and_holds_every_crystal_once():
    dataset = random_dataset(200)
    shape = batching.capacity(dataset.num_atoms, pairs=128)
    groups = batching.shuffled_groups(dataset.num_atoms, shape, seed=3, epoch=1)
    assert groups == batching.shuffled_groups(dataset.num_atoms, shape, seed=3, epoch=1)
    assert groups != batching.shuffled_groups(dataset.num_atoms, shape, seed=3, epoch=2)
    assert sorted(i for g in groups for i in g) == list(range(len(dataset)))


def test_packs_are_full():
    """Mixed sizes leave less than 15 % of the pair slots unused over an epoch."""
    dataset = random_dataset(2000)
    shape = batching.capacity(dataset.num_atoms, pairs=512)
    batch = batching.stack(dataset, batching.shuffled_groups(dataset.num_atoms, shape, seed=0, epoch=0), shape)
    assert batch.pack.pair_mask.mean() > 0.85


def test_a_pack_holds_no_more_edges_than_it_has_room_for():
    sizes, edges = np.full(30, 2), np.arange(1, 31)
    groups = batching.assign(sizes, batching.Capacity(60, 60, 30), edges=edges, max_edges=40)
    assert max(edges[g].sum() for g in groups) <= 40 and sorted(i for g in groups for i in g) == list(range(30))
    with pytest.raises(ValueError, match="31 edges"):
        batching.assign(np.array([2]), batching.Capacity(60, 60, 30), edges=np.array([31]), max_edges=30)


def test_one_crystal_is_a_pack_of_one_and_empty_slots_make_no_pairs():
    occupancy = one_hot(jnp.array([3, 8, 0, 17]))
    crystal = Crystal(occupancy, jnp.zeros((4, 3)), jnp.eye(3))
    pack = batching.pack_one(crystal)
    real = np.asarray(pack.pairs)[np.asarray(pack.pair_mask) > 0]
    assert {tuple(p) for p in real.tolist()} == {(0, 1), (0, 3), (1, 3)}
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), crystal)
    back = batching.unpack_stacked(batching.pack_stacked(stacked))
    jax.tree.map(np.testing.assert_array_equal, stacked, back)


def test_a_single_site_is_no_pair():
    crystal = Crystal(one_hot(jnp.array([3])), jnp.zeros((1, 3)), jnp.eye(3))
    assert batching.pack_one(crystal).pair_mask.sum() == 0
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), crystal)
    assert batching.pack_stacked(stacked).pair_mask.sum() == 0


def test_missing_properties_are_nan_and_unknown_ones_are_named():
    dataset = random_dataset()
    found = batching.targets(dataset, ("energy_ev",), np.array([[4, -1]]))
    np.testing.assert_array_equal(found[0, 0], dataset.properties["energy_ev"][4:5])
    assert np.isnan(found[0, 1, 0])
    with pytest.raises(ValueError, match="color"):
        batching.targets(dataset, ("color",), np.array([0]))


def test_a_crystal_too_large_for_a_pack_is_named():
    with pytest.raises(ValueError, match="40 sites"):
        batching.assign(np.array([3, 40]), batching.Capacity(16, 64, 4))


def test_prefetching_keeps_the_order_and_passes_errors_on():
    def items():
        yield from range(5)
        raise OSError("the disk is gone")

    found = batching.prefetch(items())
    assert [next(found) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_a_saved_data_set_comes_back_equal(tmp_path):
    dataset = random_dataset()
    back = datasets.load(datasets.save(dataset, tmp_path / "set.npz"))
    for name in ("ids", "num_atoms", "numbers", "frac", "lattice", "split"):
        np.testing.assert_array_equal(getattr(back, name), getattr(dataset, name))
    np.testing.assert_array_equal(back.properties["energy_ev"], dataset.properties["energy_ev"])


def test_a_truncated_data_set_is_named(tmp_path):
    path = datasets.save(random_dataset(), tmp_path / "set.npz")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"set\.npz"):
        datasets.load(path)


def test_labels_and_answers_of_sites_keep_the_order_of_the_data_set():
    """Two columns of the atoms go into packs side by side, and come back out of every pack, whichever it shares."""
    rng, sizes = np.random.default_rng(0), [3, 1, 4, 2, 4, 1]
    rows = []
    for n in sizes:
        own = {"q": rng.random(n), "m": rng.random(n)}
        rows.append(datasets.Entry("", np.full(n, 8), rng.random((n, 3)), 4 * np.eye(3), {}, own))
    data, shape = datasets.from_entries(rows), batching.Capacity(8, 16, 3)
    found = batching.each_site(lambda pack: pack.frac, data, shape)
    np.testing.assert_array_equal(found, data.frac)
    known = batching.site_targets(data, ("m", "q"), np.array([2, 1]), shape)
    np.testing.assert_array_equal(known[:4], np.stack([data.site_properties[k][4:8] for k in ("m", "q")], -1))
    np.testing.assert_array_equal(known[4], [data.site_properties[k][3] for k in ("m", "q")])
    assert known.shape == (8, 2) and np.isnan(known[5:]).all()


def test_answers_of_sites_come_back_in_order_from_packs_that_are_not():
    """Seven crystals of which the packs take the first and third, then the second and the last ones."""
    rng, shape = np.random.default_rng(0), batching.Capacity(8, 28, 4)
    rows = [datasets.Entry("", np.full(n, 8), rng.random((n, 3)), 4 * np.eye(3), {}) for n in (5, 4, 3, 6, 1, 2, 1)]
    data = datasets.from_entries(rows)
    index = batching.pack_dataset(data, shape).index
    assert sorted(row[row >= 0].tolist() for row in index) == [[0, 2], [1, 4, 5, 6], [3]]
    np.testing.assert_array_equal(batching.each_site(lambda pack: pack.frac, data, shape), data.frac)

"""Continuous uniqueness and novelty against their definitions written out, and the traced AMD against the host's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Crystal
from crysjax.crystallography.distances import PDD, amd, emd, pdd
from crysjax.data.datasets import Dataset, Entry, concatenate, from_entries, take
from crysjax.evaluation.metrics import continuous
from crysjax.evaluation.metrics.compositions import elmd_coordinates, magpie_distance
from crysjax.physics.hull.hull import compositions


def random_set(count: int, seed: int) -> Dataset:
    """Crystals of 1 to 6 sites in skewed cells."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        sites = rng.integers(1, 7)
        lattice = (15 * sites) ** (1 / 3) * (np.eye(3) + 0.15 * rng.normal(size=(3, 3)))
        rows.append(Entry(str(i), rng.integers(1, 90, sites), rng.random((sites, 3)), lattice, {}))
    return from_entries(rows)


@pytest.fixture(scope="module")
def sets() -> tuple[Dataset, Dataset]:
    return random_set(14, 0), random_set(20, 1)


def table(name: str, a: Dataset, b: Dataset) -> np.ndarray:
    """Normalized distances of all pairs, one pair at a time."""
    counts, rows = (compositions(a), compositions(b)), (amd(a), amd(b))

    def one(i: int, j: int) -> float:
        if name == "amd":
            return np.abs(rows[0][i] - rows[1][j]).max()
        if name == "magpie":
            return magpie_distance(counts[0][i][None], counts[1][j][None])[0]
        return np.abs(elmd_coordinates(counts[0][i]) - elmd_coordinates(counts[1][j])).sum()

    d = np.array([[one(i, j) for j in range(len(b))] for i in range(len(a))])
    return d / (1 + d)


@pytest.mark.parametrize("name", ["amd", "elmd", "magpie"])
def test_uniqueness_and_novelty_are_the_mean_and_the_least_distance(sets, name, monkeypatch):
    samples, known = sets
    monkeypatch.setattr(continuous, "_BLOCK", 40)  # several blocks, the last one not full
    expected = table(name, samples, samples).sum(1) / (len(samples) - 1)
    np.testing.assert_allclose(continuous.uniqueness(samples, distance=name), expected, atol=1e-12)
    np.testing.assert_allclose(
        continuous.novelty(samples, known, distance=name), table(name, samples, known).min(1), atol=1e-12
    )


def test_a_weighted_distance_is_blended_before_the_minimum(sets, monkeypatch):
    samples, known = sets
    monkeypatch.setattr(continuous, "_BLOCK", 70)
    both = 0.7763 * table("elmd", samples, known) + 0.2237 * table("amd", samples, known)
    ours = continuous.novelty(samples, known, distance=continuous.ELMD_AND_AMD)
    np.testing.assert_allclose(ours, both.min(1), atol=1e-12)
    assert not np.allclose(
        both.min(1), 0.7763 * table("elmd", samples, known).min(1) + 0.2237 * table("amd", samples, known).min(1)
    )


def test_order_changes_nothing_and_a_copy_is_neither_unique_nor_novel(sets):
    samples, known = sets
    order = np.random.default_rng(2).permutation(len(samples))
    np.testing.assert_allclose(
        continuous.uniqueness(take(samples, order)), continuous.uniqueness(samples)[order], atol=1e-12
    )
    twice = concatenate([take(samples, np.array([3])), take(samples, np.array([3]))])
    np.testing.assert_allclose(continuous.uniqueness(twice), 0, atol=1e-12)
    np.testing.assert_allclose(continuous.novelty(twice, concatenate([known, twice])), 0, atol=1e-12)


def test_continuous_sun_of_zeros_and_ones_is_the_share_and_stability_is_linear():
    assert continuous.continuous_sun([1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]) == 0.5
    ours = continuous.stability([-0.1, 0.0, 0.4289 / 4, 0.4289, 9.0, np.nan])
    np.testing.assert_allclose(ours, [1, 1, 0.75, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("call", [
    lambda s: continuous.uniqueness(take(s, np.array([0]))),
    lambda s: continuous.novelty(s, s, distance="rmsd"),
    lambda s: continuous.continuous_sun(np.ones(3), np.ones(2), np.ones(3)),
])  # fmt: skip
def test_bad_input_says_what_was_expected(sets, call):
    with pytest.raises(ValueError, match="expected"):
        call(sets[0])


def test_local_novelty_distance_equals_the_smallest_of_all_pairs(sets):
    samples, known = pdd(sets[0], k=20), pdd(sets[1], k=20)
    pairs = np.stack(np.meshgrid(np.arange(14), np.arange(20), indexing="ij"), -1).reshape(-1, 2)
    every = emd(samples, known, pairs).reshape(14, 20)
    distance, index = continuous.local_novelty_distance(samples, known)
    np.testing.assert_allclose(distance, every.min(1), atol=1e-9)
    np.testing.assert_array_equal(index, every.argmin(1))


def test_local_novelty_goes_on_until_no_mean_row_can_be_nearer():
    """Mean rows that say nothing: the nearest by PDD is the farthest by mean rows."""
    rows = lambda *pairs: np.array(pairs, float)  # noqa: E731
    sample = PDD(np.array([0.5, 0.5]), rows((0.0, 0.0), (2.0, 2.0)), np.array([2]))
    far = [(0.99 - 0.01 * i, 1.01) for i in range(9)]  # means near (1, 1), rows far from (0, 0) and (2, 2)
    distances = np.concatenate([rows(*far), rows((0.3, 0.3), (2.3, 2.3))])
    known = PDD(np.array([1.0] * 9 + [0.5, 0.5]), distances, np.array([1] * 9 + [2]))
    distance, index = continuous.local_novelty_distance(sample, known)
    assert index[0] == 9
    assert distance[0] == pytest.approx(0.3)


def crystal(seed: int = 3) -> tuple[Crystal, Dataset]:
    dataset = take(random_set(8, seed), np.array([int(np.argmax(random_set(8, seed).num_atoms))]))
    onehot = np.eye(NUM_SPECIES)[dataset.numbers - 1]
    return Crystal(
        jnp.asarray(onehot), jnp.asarray(dataset.frac, float), jnp.asarray(dataset.lattice[0], float)
    ), dataset


def test_traced_amd_equals_the_host_and_ignores_empty_slots():
    with jax.enable_x64(True):
        one, dataset = crystal()
        ours, complete = jax.jit(lambda c: continuous.crystal_amd(c, k=60))(one)
        padded = Crystal(*(jnp.concatenate([x, jnp.zeros_like(x[:1])]) for x in one[:2]), one.lattice)
        wider, _ = continuous.crystal_amd(padded, k=60)
        few, whole = continuous.crystal_amd(one, k=120, images=(1, 1, 1))
    assert bool(complete)
    np.testing.assert_allclose(ours, amd(dataset, k=60)[0], atol=1e-9)
    np.testing.assert_allclose(wider, ours, atol=1e-12)
    assert not bool(whole) and float(few[-1]) > amd(dataset, k=120)[0, -1] + 1e-3


def finite_difference(f, x: np.ndarray, direction: np.ndarray, h: float = 1e-5) -> float:
    return (float(f(x + h * direction)) - float(f(x - h * direction))) / (2 * h)


@pytest.mark.parametrize("leaf", ["frac", "lattice", "occupancy"])
def test_gradients_equal_finite_differences(sets, leaf):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        one, _ = crystal()
        # equal shares of atoms are kinks of ElMD: take amounts that no other composition has
        one = one._replace(occupancy=one.occupancy * rng.uniform(0.5, 1.0, (len(one.frac), 1)))
        energy = continuous.novelty_energy(amd(sets[1], k=30), compositions(sets[1]), images=(2, 2, 2))
        weights = jnp.asarray(rng.normal(size=30))
        for f in (energy, lambda c: weights @ continuous.crystal_amd(c, k=30, images=(2, 2, 2))[0]):
            along = jax.jit(lambda x, f=f: f(one._replace(**{leaf: x})))
            value = np.asarray(getattr(one, leaf))
            direction = rng.normal(size=value.shape) * (value > 0 if leaf == "occupancy" else 1)
            slope = float((jax.grad(along)(jnp.asarray(value)) * direction).sum())
            assert slope == pytest.approx(finite_difference(along, value, direction), rel=1e-5, abs=1e-7)


def test_energy_is_minus_the_distance_to_the_nearest_within_its_bound_and_lowest_far_away(sets):
    known, t = sets[1], 1e-3
    with jax.enable_x64(True):
        one, dataset = crystal()
        rows, counts = amd(known, k=30), compositions(known)
        energy = continuous.novelty_energy(rows, counts, composition_weight=0.05, temperature_angstrom=t)
        value = float(energy(one))
    hard = np.abs(rows - amd(dataset, k=30)).max(1)
    hard = (hard + 0.05 * np.abs(elmd_coordinates(counts) - elmd_coordinates(compositions(dataset))).sum(1)).min()
    assert -value == pytest.approx(hard, abs=t * (np.log(len(known)) + np.log(60)))
    assert -value > 0.1

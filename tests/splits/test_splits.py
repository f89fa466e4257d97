"""Groups never straddle, fractions come out, seeds repeat; labels against pymatgen and known prototypes."""

import itertools
import re

import numpy as np
import pytest

from crysjax.chemistry.elements import SYMBOLS, anonymous_formula, atomic_number, counts, formula
from crysjax.crystallography import grouping
from crysjax.data.datasets import Entry, entries, from_entries, take
from crysjax.data.readers.io import read
from crysjax.splits import grouped

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def dataset(count: int = 600, seed: int = 0):
    """Random crystals of two to four of twelve elements, with a year."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        numbers = rng.integers(3, 15, int(rng.integers(2, 5)))
        year = float(rng.integers(1990, 2020))
        rows.append(Entry(f"m{i}", numbers, rng.random((len(numbers), 3)), np.eye(3) * 6.0, {"year": year}))
    return from_entries(rows)


def straddling(split: np.ndarray, labels) -> int:
    """Labels that are found in more than one split."""
    seen = {}
    for label, name in zip(labels, split.tolist()):
        seen.setdefault(label, set()).add(name)
    return sum(len(names) > 1 for names in seen.values())


def misses_by_less_than_one_group(split: np.ndarray, labels, fractions=FRACTIONS) -> bool:
    """No split is off its share by the largest group or more: what the module promises."""
    largest = np.unique(np.asarray(labels), return_counts=True)[1].max()
    return all(abs((split == k).sum() - v * len(split)) < largest + 1e-6 for k, v in fractions.items())


def shares(split: np.ndarray) -> dict:
    return {k: (split == k).mean() for k in FRACTIONS}


@pytest.mark.filterwarnings("ignore:No Pauling")
def test_formulas_equal_pymatgen():
    from pymatgen.core import Composition

    rng = np.random.default_rng(3)
    for _ in range(50):
        numbers = rng.integers(1, 101, int(rng.integers(1, 12)))
        composition = Composition({SYMBOLS[z - 1]: c for z, c in counts(numbers, reduce=False).items()})
        assert Composition(formula(numbers)).fractional_composition == composition.fractional_composition
        assert np.gcd.reduce(list(counts(numbers).values())) == 1
        assert Composition(formula(numbers, reduce=False)) == composition
        letters = Composition(formula(numbers)).anonymized_formula
        assert len(counts(numbers)) == 1 or anonymous_formula(numbers) == re.sub(r"1(?!\d)", "", letters)
    assert [atomic_number(s) for s in ("H", "Fe", "Fm")] == [1, 26, 100]
    with pytest.raises(ValueError, match="'Xx' is not a chemical element"):
        atomic_number("Xx")


@pytest.mark.parametrize(
    "kind", ["random", "composition", "chemical-system", "element", "prototype", "space-group", "cluster"]
)
def test_a_seed_repeats_and_another_differs(kind):
    data = dataset(150)
    first, again, other = (grouped.SPLITS[kind](data, seed=s, fractions=FRACTIONS).split for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert data.split.tolist() == [""] * len(data)  # the argument is left alone


def test_random_and_composition_keep_groups_whole_and_fractions_exact():
    data = dataset()
    labels = [formula(row.numbers) for row in entries(data)]
    by_formula = grouped.by_composition(data, seed=0, fractions=FRACTIONS).split
    assert straddling(by_formula, labels) == 0
    assert straddling(grouped.random(data, seed=0, fractions=FRACTIONS).split, labels) > 0
    for split in (by_formula, grouped.random(data, seed=0, fractions=FRACTIONS).split):
        assert all(abs(shares(split)[k] - v) <= 1 / len(data) + 1e-9 for k, v in FRACTIONS.items())


def test_groups_larger_than_a_split_stay_whole():
    data = dataset(100)
    labels = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    split = grouped.grouped(data, labels, seed=4, fractions=FRACTIONS).split
    assert straddling(split, labels.tolist()) == 0
    assert set(split.tolist()) == set(FRACTIONS)


def test_held_out_elements_are_in_test_alone():
    data = dataset()
    made = grouped.by_element(data, seed=0, fractions=FRACTIONS, elements=["O", "Al"])
    has = np.array([bool({8, 13} & set(row.numbers.tolist())) for row in entries(data)])
    np.testing.assert_array_equal(made.split == "test", has)
    rest = made.split[~has]
    assert abs((rest == "train").mean() - 0.75) <= 1 / len(rest) + 1e-9
    assert straddling(rest, [formula(r.numbers) for r, h in zip(entries(data), has) if not h]) == 0
    drawn = grouped.by_element(data, seed=0, fractions=FRACTIONS)
    assert 0.2 <= (drawn.split == "test").mean() <= 0.4
    assert made.provenance["split"]["held_out"] == ["O", "Al"]


def test_prototypes_of_known_structures():
    rock_salt = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    sites = np.concatenate([rock_salt, rock_salt + np.array([0.5, 0, 0])])
    nacl = Entry("a", np.array([11] * 4 + [17] * 4), sites, np.eye(3) * 5.6, {})
    mgo = Entry("b", np.array([12] * 4 + [8] * 4), sites, np.eye(3) * 4.2, {})
    cell = (np.ones((3, 3)) - np.eye(3)) * 2.1
    primitive = Entry("c", np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), cell, {})
    cscl = Entry("d", np.array([55, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 4.1, {})
    names = [grouped.prototype(row) for row in (nacl, mgo, primitive, cscl)]
    assert names == ["AB_225_2"] * 3 + ["AB_221_2"]


def test_time_is_never_reversed_and_equal_times_stay_together():
    data = dataset()
    split, year = grouped.by_time(data, column="year", fractions=FRACTIONS).split, data.properties["year"]
    assert year[split == "train"].max() < year[split == "val"].min()
    assert year[split == "val"].max() < year[split == "test"].min()
    assert all(abs(shares(split)[k] - v) < 0.06 for k, v in FRACTIONS.items())  # thirty years: 3.3 % a year


KEYS = {
    "composition": lambda row: formula(row.numbers),
    "chemical-system": lambda row: "".join(sorted({SYMBOLS[z - 1] for z in row.numbers.tolist()})),
    "prototype": grouped.prototype,
    "space-group": lambda row: grouped.prototype(row).split("_")[1],
}


@pytest.mark.parametrize("kind", KEYS)
def test_real_crystals_never_straddle_and_fractions_come_out(kind, perovskites):
    labels = [KEYS[kind](row) for row in entries(perovskites)]
    split = grouped.SPLITS[kind](perovskites, seed=3, fractions=FRACTIONS).split
    assert straddling(split, labels) == 0 < straddling(perovskites.split, labels)  # the standard split does straddle
    assert misses_by_less_than_one_group(split, labels)


@pytest.fixture(scope="module")
def perovskites(data_dir):
    """800 crystals of Perov-5 with their standard split: five space groups and more, mixed."""
    whole = read(data_dir / "perov_5/perov_5.npz")
    return take(whole, np.random.default_rng(0).permutation(len(whole))[:800])


def test_groups_of_every_shape_miss_by_less_than_one_group():
    rng = np.random.default_rng(0)
    for seed in range(200):
        sizes = np.maximum(rng.pareto(0.8, rng.integers(1, 30)).astype(int), 1).clip(max=60)
        labels = np.repeat(np.arange(len(sizes)), sizes)
        names = [f"s{i}" for i in range(rng.integers(2, 6))]
        fractions = dict(zip(names, rng.dirichlet(np.ones(len(names))).tolist()))
        data = take(dataset(1), np.zeros(len(labels), int))
        split = grouped.grouped(data, labels, seed=seed, fractions=fractions).split
        assert straddling(split, labels.tolist()) == 0
        assert misses_by_less_than_one_group(split, labels, fractions)


def stretched(count: int = 60) -> np.ndarray:
    """Cells of one atom, stretched along c in three separate ranges: three clusters of equal size."""
    return np.concatenate([np.linspace(low, low + 0.1, count // 3) for low in (1.0, 1.6, 2.4)])


def test_clusters_are_told_apart_by_both_methods():
    rng = np.random.default_rng(2)
    ratio = rng.permutation(stretched())
    rows = [Entry(f"m{i}", np.array([14]), np.zeros((1, 3)), np.diag([3.0, 3, 3 * c]), {}) for i, c in enumerate(ratio)]
    data, labels = from_entries(rows), np.searchsorted([1.3, 2.0], ratio).tolist()
    thirds = {"train": 1 / 3, "val": 1 / 3, "test": 1 / 3}
    for own in ({"clusters": 3}, {"distance": 0.1}):
        split = grouped.by_cluster(data, seed=0, fractions=thirds, **own).split
        assert straddling(split, labels) == 0 and set(split.tolist()) == set(thirds)


def test_splits_by_distance_are_that_far_apart(perovskites):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    vectors = grouping.mean_distances(entries(perovskites))
    split = grouped.by_cluster(perovskites, seed=0, fractions=FRACTIONS, distance=0.004).split
    apart = cdist(vectors, vectors)
    assert apart[split[:, None] != split[None]].min() >= 0.004
    number, theirs = connected_components(csr_array(apart < 0.004), directed=False)  # another implementation
    ours = grouping.components(vectors, 0.004)
    assert number == len(set(ours.tolist())) == len(set(zip(ours.tolist(), theirs.tolist())))
    assert misses_by_less_than_one_group(split, theirs)


def test_clusters_by_k_means_stay_whole_and_are_better_than_chance(perovskites):
    vectors = grouping.mean_distances(entries(perovskites))
    labels = grouping.k_means(vectors, 20, seed=5)
    split = grouped.by_cluster(perovskites, seed=5, fractions=FRACTIONS, clusters=20).split
    assert straddling(split, labels.tolist()) == 0 and misses_by_less_than_one_group(split, labels)
    within = sum(((vectors[labels == k] - vectors[labels == k].mean(0)) ** 2).sum() for k in set(labels.tolist()))
    assert within < 0.2 * ((vectors - vectors.mean(0)) ** 2).sum()


def test_mean_distances_of_rock_salt_and_of_any_elements():
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    row = Entry("", np.array([12, 8]), sites, (np.ones((3, 3)) - np.eye(3)) * 2.0, {})  # simple cubic sites, 2 Å apart
    found = grouping.mean_distances([row, row._replace(numbers=np.array([55, 9]), lattice=row.lattice * 1.7)])
    np.testing.assert_allclose(found, np.tile([1.0] * 6 + [np.sqrt(2)] * 6, (2, 1)), rtol=1e-6)


def test_your_own_vectors_and_the_space_of_compositions():
    data = dataset(60)
    labels = np.arange(60) % 6
    split = grouped.by_cluster(data, seed=0, fractions=FRACTIONS, vectors=np.eye(6)[labels], distance=1.0).split
    assert straddling(split, labels.tolist()) == 0
    fractions = grouping.element_fractions(entries(data))
    np.testing.assert_allclose(fractions.sum(1), 1)
    split = grouped.by_cluster(data, seed=0, fractions=FRACTIONS, space="composition", distance=1e-6).split
    assert straddling(split, [formula(row.numbers) for row in entries(data)]) == 0


def test_times_of_real_crystals(data_dir):
    whole = read(data_dir / "mpts_52/val.csv.gz", skip_bad=True)
    split, year = grouped.by_time(whole, column="year", seed=0, fractions=FRACTIONS).split, whole.properties["year"]
    assert straddling(split, year.tolist()) == 0
    assert misses_by_less_than_one_group(split, year)
    names = [name for name in FRACTIONS if (split == name).any()]
    assert all(year[split == a].max() < year[split == b].min() for a, b in itertools.pairwise(names))


def test_wyckoff_sequences_do_not_depend_on_cell_or_origin():
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    row = Entry("", np.array([20, 22, 8, 8, 8]), sites, np.eye(3) * 3.9, {})
    double = Entry("", np.tile(row.numbers, 2), np.concatenate([sites, sites + np.array([1, 0, 0])]) / [2, 1, 1],
                   row.lattice * np.array([[2], [1], [1]]), {})  # fmt: skip
    for other in (row, row._replace(frac=sites + 0.5), double):
        assert grouping.symmetry(other).wyckoff == "221: 1 m-3m, 1 m-3m, 3 4/mm.m"
    primitive = Entry("", np.array([12, 8]), sites[:2], (np.ones((3, 3)) - np.eye(3)) * 2.1, {})
    assert grouping.symmetry(primitive)[:3] == (225, 2, ("4 m-3m", "4 m-3m"))


def test_symmetries_are_the_same_over_processes(monkeypatch):
    rows = entries(dataset(12))
    alone = grouping.symmetries(rows, processes=1)
    monkeypatch.setattr(grouping, "_INLINE_ROWS", 1)
    assert grouping.symmetries(rows, processes=2) == alone


def test_given_split_and_clear_errors():
    data = dataset(4)
    assert grouped.given(data, {f"m{i}": "train" for i in range(4)}).split.tolist() == ["train"] * 4
    with pytest.raises(ValueError, match="3 crystals have none, the first is 'm1'"):
        grouped.given(data, {"m0": "train"})
    with pytest.raises(ValueError, match="sum to 1"):
        grouped.random(data, seed=0, fractions={"train": 0.5, "test": 0.2})
    with pytest.raises(ValueError, match=r"no property 'date'; the data set has \['year'\]"):
        grouped.by_time(data, column="date")
    with pytest.raises(ValueError, match="space 'charge'; expected one of structure, composition"):
        grouped.by_cluster(data, seed=0, space="charge")
    with pytest.raises(ValueError, match="expected 1 to 4, the number of distinct descriptors, got 9"):
        grouped.by_cluster(data, seed=0, clusters=9)
    with pytest.raises(ValueError, match=r"largest cluster holds 100\.0% of the crystals"):
        grouped.by_cluster(data, seed=0, distance=1e3)
    with pytest.raises(ValueError, match=r"finite vectors \(4, d\), got \(3, 2\)"):
        grouped.by_cluster(data, seed=0, vectors=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="hold out 0 of 4"):
        grouped.by_element(data, seed=0, elements=["U"])

"""Groups never straddle, fractions come out, seeds repeat; labels against pymatgen and known prototypes."""

import re

import numpy as np
import pytest

from crysjax.data import splits
from crysjax.data.datasets import Entry, entries, from_entries
from crysjax.data.elements import SYMBOLS, anonymous_formula, atomic_number, counts, formula

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


@pytest.mark.parametrize("kind", ["random", "composition", "prototype", "element"])
def test_a_seed_repeats_and_another_differs(kind):
    data = dataset(150)
    first, again, other = (splits.SPLITS[kind](data, seed=s, fractions=FRACTIONS).split for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert data.split.tolist() == [""] * len(data)  # the argument is left alone


def test_random_and_composition_keep_groups_whole_and_fractions_exact():
    data = dataset()
    labels = [formula(row.numbers) for row in entries(data)]
    by_formula = splits.by_composition(data, seed=0, fractions=FRACTIONS).split
    assert straddling(by_formula, labels) == 0
    assert straddling(splits.random(data, seed=0, fractions=FRACTIONS).split, labels) > 0
    for split in (by_formula, splits.random(data, seed=0, fractions=FRACTIONS).split):
        assert all(abs(shares(split)[k] - v) <= 1 / len(data) + 1e-9 for k, v in FRACTIONS.items())


def test_groups_larger_than_a_split_stay_whole():
    data = dataset(100)
    labels = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    split = splits.grouped(data, labels, seed=4, fractions=FRACTIONS).split
    assert straddling(split, labels.tolist()) == 0
    assert set(split.tolist()) == set(FRACTIONS)


def test_held_out_elements_are_in_test_alone():
    data = dataset()
    made = splits.by_element(data, seed=0, fractions=FRACTIONS, elements=["O", "Al"])
    has = np.array([bool({8, 13} & set(row.numbers.tolist())) for row in entries(data)])
    np.testing.assert_array_equal(made.split == "test", has)
    rest = made.split[~has]
    assert abs((rest == "train").mean() - 0.75) <= 1 / len(rest) + 1e-9
    assert straddling(rest, [formula(r.numbers) for r, h in zip(entries(data), has) if not h]) == 0
    drawn = splits.by_element(data, seed=0, fractions=FRACTIONS)
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
    names = [splits.prototype(row) for row in (nacl, mgo, primitive, cscl)]
    assert names == ["AB_225_2"] * 3 + ["AB_221_2"]


def test_time_is_never_reversed_and_equal_times_stay_together():
    data = dataset()
    split, year = splits.by_time(data, column="year", fractions=FRACTIONS).split, data.properties["year"]
    assert year[split == "train"].max() < year[split == "val"].min()
    assert year[split == "val"].max() < year[split == "test"].min()
    assert all(abs(shares(split)[k] - v) < 0.06 for k, v in FRACTIONS.items())  # thirty years: 3.3 % a year


def test_given_split_and_clear_errors():
    data = dataset(4)
    assert splits.given(data, {f"m{i}": "train" for i in range(4)}).split.tolist() == ["train"] * 4
    with pytest.raises(ValueError, match="3 crystals have none, the first is 'm1'"):
        splits.given(data, {"m0": "train"})
    with pytest.raises(ValueError, match="sum to 1"):
        splits.random(data, seed=0, fractions={"train": 0.5, "test": 0.2})
    with pytest.raises(ValueError, match=r"no property 'date'; the data set has \['year'\]"):
        splits.by_time(data, column="date")
    with pytest.raises(ValueError, match="hold out 0 of 4"):
        splits.by_element(data, seed=0, elements=["U"])

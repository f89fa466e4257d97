"""Flags that a chemist would raise: uncommon oxidation states, cations with too few neighbors."""

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers.io import read
from crysjax.evaluation import chemistry


def composition(**counts):
    from crysjax.chemistry.elements import NUMBERS

    return np.concatenate([np.full(n, NUMBERS[symbol]) for symbol, n in counts.items()])


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (composition(Na=1, Cl=1), ""),
        (composition(Fe=3, O=4), ""),  # mixed valence
        (composition(Ca=1, Ti=1, O=3), ""),
        (composition(Ba=1, Zr=1, O=2), "Zr(II)"),
        (composition(Ti=2, O=3), "Ti(III)"),
        (composition(Na=5, Cl=1), "no neutral assignment"),
        (composition(Cu=5, Zn=8), ""),  # an alloy
        (composition(O=3), ""),
    ],
)
def test_oxidation_states_that_are_not_common_are_named(numbers, said):
    assert said in chemistry.oxidation_flag(numbers) if said else chemistry.oxidation_flag(numbers) == ""
    assert chemistry.oxidation_flag(np.tile(numbers, 3)) == chemistry.oxidation_flag(numbers)


def silicate(neighbors):
    """One Si and its oxygen atoms, 1.62 Å away along the diagonals, in a wide cell; Mg far off for neutrality."""
    away = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])[:neighbors] * 1.62 / np.sqrt(3) / 9
    frac = np.concatenate([np.full((1, 3), 0.5), 0.5 + away])
    magnesium = np.array([[0, 0, 0], [0, 0, 0.5]])[: neighbors - 2]
    frac = np.concatenate([frac, magnesium])
    return Entry("s", np.array([14] + [8] * neighbors + [12] * (neighbors - 2)), frac, 9.0 * np.eye(3), {})


def test_threefold_silicon_is_flagged_and_fourfold_is_not():
    assert chemistry.coordination(silicate(4)) == [((14, "light"), 4)]
    assert chemistry.coordination_flag(silicate(4)) == ""
    assert chemistry.coordination_flag(silicate(3)) == "threefold Si"


def test_perovskite_has_the_coordination_of_the_textbook(described_anew):
    frac = np.array([[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    entry = Entry("srtio3", np.array([38, 22, 8, 8, 8]), frac, 3.905 * np.eye(3), {})
    for described in described_anew(entry):
        found = set(chemistry.coordination(described))
        assert found == {((38, "light"), 12), ((22, "light"), 6)}
        assert chemistry.coordination_flag(described) == ""


def test_a_table_of_made_up_crystals_leaves_the_rare_out():
    rows = [silicate(4)] * 30 + [silicate(2)]
    assert chemistry.table(rows, fewest=20) == {"light": {"Si": 4}, "heavy": {}}
    assert chemistry.table([silicate(4)] * 19, fewest=20) == {"light": {}, "heavy": {}}
    assert chemistry.table([silicate(4)] * 30 + [silicate(2)] * 10)["light"] == {"Si": 2}


def test_most_real_crystals_are_usual(data_dir):
    known = read(data_dir / "mp_20" / "val")
    some = datasets.take(known, np.arange(0, len(known), 20))
    found = chemistry.flags(some, np.ones(len(some), bool))
    assert np.mean(found["unusual_coordination"] == "") > 0.9
    assert np.mean(found["unusual_oxidation"] == "") > 0.7


def test_crystals_that_are_not_worth_it_are_not_measured():
    rows = datasets.from_entries([silicate(3), silicate(3)])
    found = chemistry.flags(rows, np.array([True, False]))
    assert found["unusual_coordination"].tolist() == ["threefold Si", ""]

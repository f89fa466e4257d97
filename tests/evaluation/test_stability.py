"""Stability is said as surely as the energies allow: probabilities, "cannot tell", and hulls with holes."""

import numpy as np
import pytest
from scipy.stats import norm

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.evaluation import all_stages, stability, stages, totals
from crysjax.physics.hull import hull

LEVEL = hull.Level("x", "none")
CORNERS = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])


def salt(name, cation=11, anion=17, edge=3.3):
    return Entry(name, np.array([cation, anion]), CORNERS, edge * np.eye(3), {})


def judged(salts, energy, std, *, margin=0.1, known=None):
    crystals = datasets.from_entries(salts)
    if known is None:
        of = hull.compositions(datasets.from_entries([salt("known")]))
        known = hull.hull(of, np.array([-2.0]), level=LEVEL, source="one salt", names=["NaCl"])
    return stages.stable(crystals, np.array(energy), known, level=LEVEL, measured="made up",
                         margin_ev_per_atom=margin, std_ev_per_atom=std)  # fmt: skip


def test_an_error_larger_than_the_margin_gives_probabilities():
    energy = [-2.3, -2.05, -1.95, -1.8, -1.2]
    said = judged([salt(c) for c in "abcde"], energy, 0.16)
    expected = norm.cdf((0.1 - (np.array(energy) + 2)) / 0.16)
    np.testing.assert_allclose(said.columns["probability_stable"], expected, atol=1e-4)
    assert said.passed.tolist() == [True, False, False, False, False]
    assert said.asked.tolist() == [True, False, False, False, True]  # in between nobody can tell
    assert said.reason[2] == "cannot tell: +0.050 eV/atom from the hull, within the margin with probability 0.62"
    assert said.reason[4] == "0.800 eV/atom above the hull" and "the error exceeds the margin" in said.level


def test_an_error_below_the_margin_or_none_decides():
    for std in (None, 0.05):
        said = judged([salt(c) for c in "ab"], [-1.95, -1.85], std)
        assert said.passed.tolist() == [True, False] and said.asked.all()


def test_what_the_hull_does_not_know_is_unknown_and_not_unstable():
    both = datasets.from_entries([salt("known"), salt("f", 19, 35)])
    known = hull.hull(hull.compositions(both), np.array([-2.0, -1.0]), level=LEVEL, source="two", names=["a", "b"])
    crystals = [salt("nacl"), salt("lif", 3, 9), salt("nabr", 11, 35)]
    said = judged(crystals, [-2.0, -3.0, -1.5], None, known=known)
    assert said.asked.tolist() == [True, False, False] and said.passed.tolist() == [True, False, False]
    assert said.reason[1] == "cannot tell: no entry of Li, F in the hull"
    assert said.reason[2] == "cannot tell: the hull has no compound of these elements"
    assert np.isnan(said.columns["probability_stable"][1:]).all()


def test_values_far_from_the_hull_are_flagged():
    said = judged([salt(c) for c in "abc"], [-2.5, -2.2, 0.5], None)
    assert said.columns["far_below_hull"].tolist() == [True, False, False]
    assert said.columns["far_above_hull"].tolist() == [False, False, True]
    assert said.passed.tolist() == [False, True, False]
    assert said.reason[0] == "0.500 eV/atom below the hull: not believed"


def test_totals_are_expected_shares_with_an_interval(tmp_path):
    energy = np.array([-2.3, -2.05, -1.95, -1.2])
    salts = [salt(c, edge=3.0 + 0.2 * k) for k, c in enumerate("abcd")]
    samples = datasets.from_entries(salts)

    def ask(crystals, worth):
        return judged(salts, energy, 0.16), 4

    train = datasets.from_entries([salt("x", 3, 9)])
    found = all_stages.judge(
        "set", samples, [], all_stages.Questions(tmp_path, {"train": train}, stable=ask, processes=1)
    )
    metrics = totals.metrics(found)
    chance = norm.cdf((0.1 - (energy + 2)) / 0.16)
    assert metrics["stability, expected"].value == pytest.approx(chance.mean(), abs=1e-4)
    assert "stability" not in metrics and "S.U.N." not in metrics and "MSUN" not in metrics
    new = found.verdicts["unique"].passed
    assert metrics["MSUN, expected"].value == pytest.approx((chance * new).mean(), abs=1e-4)
    strict = norm.cdf(-(energy + 2) / 0.16)
    said = metrics["S.U.N., expected"]
    assert said.value == pytest.approx((strict * new).mean(), abs=1e-4) and said.low < said.value < said.high
    assert metrics["stability unknown"].value == 0.5
    rows = {row["stage"]: row for row in totals.ledger(found)}
    assert "stability" not in totals.totals(found)["not_measured"]
    assert all("not asked" not in why for why in rows["stable"]["reasons"])


def test_expected_shares_of_certainties_are_the_shares():
    found = stability.expected(np.array([1.0, 1.0, 0.0, np.nan]))
    assert (found.value, found.count, found.missing) == (pytest.approx(2 / 3), 3, 1)


@pytest.mark.parametrize("edge", [3.0, 3.3])
def test_descriptions_do_not_change_stability(described_anew, edge):
    salts = described_anew(salt("a", edge=edge))
    said = judged(salts, [-1.95] * len(salts), 0.16)
    assert len(set(said.reason.tolist())) == 1 and np.ptp(said.columns["probability_stable"]) < 1e-9

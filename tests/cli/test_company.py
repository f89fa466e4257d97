"""A crystal alone and among five odd ones (one atom, thirty, no symmetry, skewed, collapsed) is answered alike."""

import csv

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Entry

GRID = np.array([[i, j, k] for i in range(5) for j in range(3) for k in range(2)]) / [5, 3, 2]
ROWS = [
    Entry("rock salt", np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 2.1 * (1 - np.eye(3)), {}),
    Entry("one", np.array([8]), np.zeros((1, 3)), 2.5 * np.eye(3), {}),
    Entry("thirty", np.array([12, 8] * 15), GRID, np.diag([10.5, 6.3, 4.2]), {}),
    Entry("no symmetry", np.array([22, 8, 38]), np.array([[0, 0, 0], [0.5, 0.46, 0.02], [0.52, 0.5, 0.43]]),
          np.array([[3.9, 0.2, 0.1], [0.3, 4.0, 0.2], [-0.2, 0.1, 4.1]]), {}),
    Entry("skewed", np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
          np.array([[4.2, 0, 0], [12.6, 4.2, 0], [0, 8.4, 4.2]]), {}),
    Entry("collapsed", np.array([8, 8]), np.array([[0, 0, 0], [0.5, 0, 0]]), np.diag([9.0, 9.0, 0.02]), {}),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """All of them in one file, and some in files of their own."""
    folder = tmp_path_factory.mktemp("company")
    datasets.save(datasets.from_entries(ROWS), folder / "all.npz")
    for row in ROWS:
        datasets.save(datasets.from_entries([row]), folder / f"{row.id}.npz")
    return folder


def table(path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["id"], []).append(row)
    return found


def test_diffraction_is_the_same_to_the_last_digit(crysjax, places):
    assert crysjax("diffraction", places / "all.npz", "--out", places / "all.csv").code == 0
    together = table(places / "all.csv")
    for row in ROWS:
        assert crysjax("diffraction", places / f"{row.id}.npz", "--out", places / "one.csv").code == 0
        assert table(places / "one.csv") == {row.id: together[row.id]}


def test_predictions_are_the_same_to_rounding_and_those_of_the_refused_empty(crysjax, world, places):
    asked = ("--model", world.heads, "--out")
    answer = crysjax("predict", places / "all.npz", *asked, places / "all_p.csv")
    assert answer.code == 0 and "the first is row 6 (id collapsed), 0.81 Å³ per atom" in answer.err
    together = table(places / "all_p.csv")
    for row in (ROWS[0], ROWS[2], ROWS[5]):
        assert crysjax("predict", places / f"{row.id}.npz", *asked, places / "one.csv").code == 0
        (mine,), (its,) = table(places / "one.csv")[row.id], together[row.id]
        for column in mine.keys() - {"id"}:
            assert (mine[column] == "") == (its[column] == "") == (row.id == "collapsed"), column
            if mine[column]:  # five digits are written
                assert float(mine[column]) == pytest.approx(float(its[column]), rel=1e-3, abs=2e-5), column


def test_relaxed_crystals_are_the_same_to_rounding_and_reasons_in_words(crysjax, world, places):
    asked = ("--potential", world.potential, "--steps", 5, "--out")
    together = crysjax("relax", places / "all.npz", *asked, places / "all_r.npz")
    assert together.code == 0
    among = datasets.entries(datasets.load(places / "all_r.npz"))
    for place in (0, 5):
        row = ROWS[place]
        alone = crysjax("relax", places / f"{row.id}.npz", *asked, places / "one.npz")
        (mine,), its = datasets.entries(datasets.load(places / "one.npz")), among[place]
        said = [line for line in alone.err.splitlines() if line.startswith(f"{row.id}: ")]
        assert said == [line for line in together.err.splitlines() if line.startswith(f"{row.id}: ")]
        assert bool(said) == (row.id == "collapsed")
        off = mine.frac - its.frac
        np.testing.assert_allclose(off - np.round(off), 0, atol=1e-5)
        np.testing.assert_allclose(mine.lattice, its.lattice, atol=1e-4)
        for name in ("converged", "valid"):
            assert mine.properties[name] == its.properties[name]
        energies = [one.properties["potential_ev_per_atom"] for one in (mine, its)]
        np.testing.assert_allclose(*energies, atol=1e-6)

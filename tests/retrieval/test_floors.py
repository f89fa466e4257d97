"""The no-learning baselines: hand-made answers, and the published sets' floors within Monte Carlo error."""

import numpy as np
import pytest

from crysjax.chemistry.elements import counts
from crysjax.crystallography.matching import match_pairs
from crysjax.data.datasets import Entry, entries, from_entries, take, where_split
from crysjax.data.readers.io import read
from crysjax.retrieval import floors, templates

SITES = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def perovskite(name: str, a: int, b: int, x: int = 8) -> Entry:
    return Entry(name, np.array([a, b, x, x, x]), SITES, np.eye(3) * 4.0, {})


def test_twin_exchanges_the_cations_and_says_where_there_is_none():
    train = from_entries([perovskite("t", 22, 20)])
    test = from_entries([perovskite("same composition", 20, 22), perovskite("other", 20, 40)])
    made = entries(floors.twin(train, test))
    assert made[0].numbers.tolist() == [20, 22, 8, 8, 8]
    assert [row.properties["found"] for row in made] == [1, 0]
    assert match_pairs(test, floors.twin(train, test)).rms[0, 0] < 1e-6


def test_nearest_template_assigns_each_element_to_its_nearest():
    """From BaTiO3 and NaNbF3: SrZrO3 takes Sr for Ba and Zr for Ti, in the oxide."""
    train = from_entries([perovskite("NaNbF3", 11, 41, 9), perovskite("BaTiO3", 56, 22)])
    test = from_entries([perovskite("SrZrO3", 40, 38)])  # the test row's own sites must not matter
    first, second = templates.nearest_templates(train, test, tries=2)
    assert entries(first)[0].numbers.tolist() == [38, 40, 8, 8, 8]
    assert entries(second)[0].numbers.tolist()[2:] == [8, 8, 8]
    assert first.properties["found"].tolist() == second.properties["found"].tolist() == [1]
    third = templates.nearest_templates(train, test, tries=3)[2]
    assert third.properties["found"].tolist() == [0]  # there are only two


def test_the_cell_grows_with_the_atoms():
    train, test = from_entries([perovskite("a", 20, 22)]), from_entries([perovskite("b", 56, 40)])
    made = floors.nearest_template(train, test)
    radii = {20: 1.80, 22: 1.40, 56: 2.15, 40: 1.55, 8: 0.60}  # Slater's, in Å
    sphere = {z: r**3 for z, r in radii.items()}
    ratio = (sphere[56] + sphere[40] + 3 * sphere[8]) / (sphere[20] + sphere[22] + 3 * sphere[8])
    np.testing.assert_allclose(np.linalg.det(made.lattice[0]), 64 * ratio, rtol=1e-5)


@pytest.mark.parametrize("floor", [floors.random_template, floors.nearest_template, floors.twin_or_nearest])
def test_every_candidate_has_the_composition_that_was_asked_for(floor):
    rng = np.random.default_rng(0)
    rows = [perovskite(f"{i}", *map(int, rng.choice(np.arange(19, 31), 2, replace=False))) for i in range(30)]
    made = floor(from_entries(rows[:20]), from_entries(rows[20:]))
    assert [counts(m.numbers) for m in entries(made)] == [counts(r.numbers) for r in rows[20:]]
    assert made.ids.tolist() == [r.id for r in rows[20:]]
    assert (made.properties["found"] == 1).all()


def test_random_template_repeats_by_seed_and_has_nothing_for_a_new_size():
    train = from_entries([perovskite(f"{i}", 20 + i, 40) for i in range(9)])
    test = from_entries([perovskite("a", 30, 50), Entry("b", np.array([3]), np.zeros((1, 3)), np.eye(3) * 3, {})])
    first, again, other = (floors.random_template(train, test, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.numbers, again.numbers)
    assert (first.numbers != other.numbers).any() or (first.lattice != other.lattice).any()
    assert first.properties["found"].tolist() == [1, 0]


def test_a_seed_draws_among_equally_near_templates():
    """Two polymorphs of one composition, for 20 rows: by chance alike in one of 2^20 pairs of seeds."""
    long = perovskite("long", 20, 22)._replace(lattice=np.diag([4.0, 4.0, 6.0]))
    train = from_entries([perovskite("cubic", 20, 22), long])
    test = from_entries([perovskite(f"{i}", 38, 22) for i in range(20)])
    first, again, other = (floors.nearest_template(train, test, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.lattice, again.lattice)
    assert (first.lattice != other.lattice).any()


def test_perov_5_twin_floor(data_dir):
    dataset = read(data_dir / "perov_5/perov_5.npz")
    train, test = where_split(dataset, "train"), where_split(dataset, "test")
    made = floors.twin(train, test)
    assert (made.properties["found"] == 1).sum() == 2214
    chosen = np.random.default_rng(0).choice(len(test), 120, replace=False)
    found = match_pairs(take(test, chosen), take(made, chosen), processes=1)
    error = np.sqrt(0.581 * 0.419 / 120)
    assert abs(found.rate - 0.581) < 3.5 * error  # 58.1 % of all rows
    spread = np.nanstd(found.rms) / np.sqrt(np.isfinite(found.rms).sum())
    assert abs(found.rmse - 0.113) < 3.5 * spread

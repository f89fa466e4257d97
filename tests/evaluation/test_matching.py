"""Every answer equals a plain StructureMatcher's, call for call."""

import numpy as np
import pytest

from crysjax.data.datasets import Entry, entries, from_entries, take, where_split
from crysjax.data.io import read, to_structure
from crysjax.evaluation.matching import Tolerance, groups, match_pairs, novel

ROCK_SALT = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
CUBE = np.concatenate([ROCK_SALT, ROCK_SALT + np.array([0.5, 0, 0])])


def plain():
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)  # as CDVAE calls it


def plain_rms(candidates: list[Entry], references: list[Entry]) -> np.ndarray:
    engine = plain()
    found = [engine.get_rms_dist(to_structure(c), to_structure(r)) for c, r in zip(candidates, references)]
    return np.array([np.nan if pair is None else pair[0] for pair in found])


def crystals(count: int, seed: int = 0) -> list[Entry]:
    """Skewed cells of two to six atoms of two elements: supercells, equal and unequal compositions all occur."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        half = int(rng.integers(1, 4))
        numbers = np.array([11] * half + [17] * half)
        lattice = (np.eye(3) + rng.normal(size=(3, 3)) * 0.2) * (25 * len(numbers)) ** (1 / 3)
        rows.append(Entry(f"{i}", numbers, rng.random((len(numbers), 3)), lattice, {}))
    return rows


def moved(row: Entry, size: float, seed: int) -> Entry:
    rng = np.random.default_rng(seed)
    change = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    frac = (row.frac + size * rng.normal(size=row.frac.shape)) @ np.linalg.inv(change)
    order = rng.permutation(len(frac))
    return row._replace(frac=frac[order], numbers=row.numbers[order], lattice=change @ row.lattice * 1.1)


def test_equal_to_structure_matcher_on_made_pairs():
    references = crystals(50)
    other = crystals(50, seed=1)
    candidates = [moved(r, 0.05 * (i % 5), i) if i % 3 else other[i] for i, r in enumerate(references)]
    sets = from_entries(references), from_entries(candidates)
    found = match_pairs(*sets, processes=1)
    expected = plain_rms(entries(sets[1]), entries(sets[0]))
    np.testing.assert_array_equal(found.rms[:, 0], expected)
    assert 0 < np.isnan(expected).sum() < 50
    assert found.rate == np.isfinite(expected).mean()
    assert found.rmse == pytest.approx(np.nanmean(expected))


@pytest.mark.slow  # starts two processes and matches 100 pairs twice
def test_equal_to_structure_matcher_on_real_pairs_over_two_processes(data_dir):
    rng = np.random.default_rng(0)
    perov = where_split(read(data_dir / "perov_5/perov_5.npz"), "test")
    references, others = (take(perov, rng.choice(len(perov), 100, replace=False)) for _ in range(2))
    rows = [o._replace(numbers=r.numbers) for r, o in zip(entries(references), entries(others))]
    candidates = from_entries(rows)
    found = match_pairs(references, [candidates, references], processes=2)
    np.testing.assert_array_equal(found.rms[:, 0], plain_rms(entries(candidates), entries(references)))
    assert found.rms.shape == (100, 2) and found.rate == 1.0
    assert found.best.max() < 1e-4  # a structure matches itself, up to float32


def test_candidates_that_are_none_and_other_compositions_do_not_match():
    rows = crystals(3)
    none = [rows[0]._replace(properties={"found": 0.0}), rows[1], rows[2]._replace(numbers=rows[2].numbers + 1)]
    found = match_pairs(
        from_entries(rows), from_entries([r._replace(properties={"found": 1.0} | r.properties) for r in none])
    )
    assert np.isfinite(found.rms[:, 0]).tolist() == [False, True, False]
    assert found.rate == pytest.approx(1 / 3)
    nothing = match_pairs(from_entries(rows[:1]), from_entries(none[:1]))
    assert nothing.rate == 0 and np.isnan(nothing.rmse)
    with pytest.raises(ValueError, match=r"3 references, but candidate sets of \[1\]"):
        match_pairs(from_entries(rows), from_entries(rows[:1]))


def test_best_of_several_tries_is_the_smallest():
    rows = crystals(4, seed=3)
    tries = [from_entries([moved(r, size, i) for i, r in enumerate(rows)]) for size in (0.06, 0.01, 0.03)]
    found = match_pairs(from_entries(rows), tries)
    np.testing.assert_array_equal(found.best, np.nanmin(found.rms, axis=1))
    assert found.rms.shape == (4, 3)


def test_groups_equal_group_structures():
    rows = crystals(6, seed=5)
    rows += [moved(rows[i], 0.02, i) for i in (0, 2, 4, 4)]
    mgo = Entry("mgo", np.array([12] * 4 + [8] * 4), CUBE, np.eye(3) * 4.2, {})
    primitive = Entry("p", np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), (1 - np.eye(3)) * 2.1, {})
    dataset = from_entries([*rows, mgo, primitive])
    structures = [to_structure(row) for row in entries(dataset)]
    expected = np.zeros(len(dataset), int)
    for group in plain().group_structures(structures):
        members = [next(i for i, s in enumerate(structures) if s is member) for member in group]
        expected[members] = min(members)
    labels = groups(dataset, processes=1)
    np.testing.assert_array_equal(labels, expected)
    assert labels[-1] == labels[-2] == len(dataset) - 2  # the primitive cell is the same crystal
    assert len(np.unique(labels)) < len(dataset)


def test_novelty_equals_pairwise_fit():
    known = crystals(8, seed=7)
    asked = [moved(known[1], 0.02, 0), moved(known[5], 0.01, 1), *crystals(4, seed=8)]
    asked += [known[0]._replace(numbers=known[0].numbers + 2)]
    new, old = from_entries(asked), from_entries(known)
    expected = [
        not any(plain().fit(to_structure(a), to_structure(b)) for b in entries(old)) for a in entries(new)
    ]  # fmt: skip
    assert novel(new, old).tolist() == expected
    assert expected[:2] == [False, False] and expected[-1]
    assert novel(new, old, tolerance=Tolerance(stol=1e-6)).all()

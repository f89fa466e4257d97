"""Every answer equals a plain StructureMatcher's, call for call."""

import numpy as np
import pytest

from crysjax.chemistry.elements import formula
from crysjax.crystallography import matching
from crysjax.crystallography.matching import Tolerance, groups, match_pairs, novel, pair_matrix
from crysjax.data.datasets import Dataset, Entry, entries, from_entries, take, where_split
from crysjax.data.readers.convert import to_structure
from crysjax.data.readers.io import read

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


def plain_matrix(dataset: Dataset) -> np.ndarray:
    """`fit` of every pair, the earlier one first."""
    structures, engine = [to_structure(row) for row in entries(dataset)], plain()
    equal = np.eye(len(structures), dtype=bool)
    for i, j in zip(*np.triu_indices(len(structures), 1)):
        equal[i, j] = equal[j, i] = engine.fit(structures[i], structures[j])
    return equal


def firsts(equal: np.ndarray) -> np.ndarray:
    """The clusters of `group_structures` from a matrix of pairs: the first unclustered one takes all it equals."""
    labels = np.full(len(equal), -1)
    for i in range(len(equal)):
        if labels[i] < 0:
            labels[equal[i] & (labels < 0)] = i
    return labels


def test_equal_to_structure_matcher_on_real_pairs_over_two_processes(data_dir, monkeypatch):
    monkeypatch.setattr(matching, "_INLINE", 0)
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


def test_every_pair_of_carbon_equals_fit(data_dir):
    """One composition, 36 crystals and re-celled, strained copies of some: all pairs, and the clusters they make."""
    carbon = read(data_dir / "carbon_24/carbon_24.npz")
    drawn = np.random.default_rng(0).choice(np.flatnonzero(carbon.num_atoms <= 8), 28, replace=False)
    rows = entries(take(carbon, drawn))
    rows += [moved(row, 0.04 * (i % 4), i) for i, row in enumerate(rows[:8])]
    dataset = from_entries([rows[i] for i in np.random.default_rng(1).permutation(len(rows))])
    expected = plain_matrix(dataset)
    np.testing.assert_array_equal(pair_matrix(dataset, processes=1), expected)
    np.testing.assert_array_equal(groups(dataset, processes=1), firsts(expected))
    assert len(rows) + 8 < expected.sum() < 0.5 * expected.size


def test_samples_of_mp_20_equal_fit(data_dir):
    """Generated crystals that share formulas with one another and with real ones: uniqueness and novelty."""
    samples, known = (from_entries(shared_formulas(data_dir)[k::2]) for k in (0, 1))
    structures, others = ([to_structure(row) for row in entries(part)] for part in (samples, known))
    engine, by_formula = plain(), {}
    for structure in others:
        by_formula.setdefault(structure.composition.reduced_formula, []).append(structure)
    same = [by_formula.get(s.composition.reduced_formula, []) for s in structures]
    expected = [not any(engine.fit(s, other) for other in part) for s, part in zip(structures, same)]
    assert novel(samples, known, processes=1).tolist() == expected
    assert 10 < expected.count(False) < sum(map(bool, same))  # some share a formula and are new all the same
    clusters = np.zeros(len(samples), int)
    place = {id(s): i for i, s in enumerate(structures)}
    for group in engine.group_structures(structures):
        clusters[[place[id(s)] for s in group]] = min(place[id(s)] for s in group)
    np.testing.assert_array_equal(groups(samples, processes=1), clusters)
    assert len(np.unique(clusters)) < len(samples)


def shared_formulas(data_dir) -> list[Entry]:
    """120 samples of DiffCSP whose formula at least two others have, of up to ten sites, equal formulas together."""
    file = dict(np.load(data_dir / "samples" / "DiffCSP_mp_20_10k.npz"))
    sites = np.split(np.arange(file["num_atoms"].sum()), np.cumsum(file["num_atoms"])[:-1])
    names = np.array([formula(file["atom_types"][s]) if len(s) <= 10 else "" for s in sites])
    kinds, which, count = np.unique(names, return_inverse=True, return_counts=True)
    shared = np.flatnonzero((count[which] > 2) & (kinds[which] != ""))
    return [
        Entry(f"{i}", file["atom_types"][sites[i]], file["frac_coords"][sites[i]],
              lattice_of(file["lengths"][i], file["angles"][i]), {})
        for i in shared[np.argsort(which[shared], kind="stable")][:120]
    ]  # fmt: skip


def lattice_of(lengths: np.ndarray, angles_degree: np.ndarray) -> np.ndarray:
    """Rows a, b, c from the Gram matrix of lengths and angles."""
    alpha, beta, gamma = np.cos(np.radians(angles_degree))
    gram = np.array([[1, gamma, beta], [gamma, 1, alpha], [beta, alpha, 1]])
    return np.asarray(lengths)[:, None] * np.linalg.cholesky(gram)


def test_processes_do_not_change_answers(monkeypatch):
    rows = crystals(10, seed=9)
    dataset = from_entries(rows + [moved(row, 0.01, i) for i, row in enumerate(rows)])
    alone = pair_matrix(dataset, processes=1)
    monkeypatch.setattr(matching, "_INLINE", 0)
    monkeypatch.setattr("crysjax.crystallography.equivalence._REMEMBERED", {})
    np.testing.assert_array_equal(pair_matrix(dataset, processes=2), alone)
    np.testing.assert_array_equal(groups(dataset, processes=2), firsts(alone))
    assert 20 < alone.sum() < 200

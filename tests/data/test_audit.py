"""The audit on planted leaks and on the known leak of Perov-5; the fingerprint against pymatgen."""

import numpy as np
import pytest

from crysjax.data.audit import audit, compare, permutations, text
from crysjax.data.datasets import Entry, entries, from_entries, load, save, where_split
from crysjax.data.fingerprints import fingerprint, neighbor_distances
from crysjax.data.io import read, to_structure

PEROVSKITE = np.array([[0.01, 0, 0], [0.5, 0.5, 0.52], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def perovskite(name: str, a: int, b: int, *, length: float = 4.0, move: float = 0.0) -> Entry:
    frac = PEROVSKITE + move * np.array([0, 0, 1, -1, 0])[:, None]
    return Entry(name, np.array([a, b, 8, 8, 8]), frac, np.eye(3) * length, {})


def planted() -> tuple:
    train = [perovskite(f"t{i}", 20 + i, 40 + i) for i in range(6)]
    test = [
        perovskite("same", 20, 40),  # exact duplicate, other id
        perovskite("near", 21, 41, length=4.1, move=0.02),
        perovskite("t2", 42, 22),  # twin, and an id that occurs twice
        perovskite("twin", 43, 23, length=4.2),
        perovskite("new", 30, 50),
        Entry("polymorph", np.array([24, 44, 8, 8, 8]), PEROVSKITE * [0.3, 1, 1], np.diag([8.0, 3, 3]), {}),
    ]
    return from_entries(train + test, split=["train"] * 6 + ["test"] * 6), test


def test_planted_leaks_are_found_and_told_apart():
    found = audit(planted()[0])["pairs"]["train -> test"]
    assert (found["rows"], found["same_id"], found["same_composition"], found["exact_duplicates"]) == (6, 1, 5, 1)
    assert found["checked"] == 5
    assert found["duplicates"] == pytest.approx(2 / 5)
    assert found["twins"] == pytest.approx(2 / 5)
    assert found["two_cations"] == 1.0
    assert found["swapped"] == {"Ti-Mo": 1, "V-Tc": 1}


def test_the_text_says_it_in_words():
    lines = text(audit(planted()[0]))
    assert "composition twins: 83.3% of test compositions (5 rows) occur in train" in lines
    assert "40.0% of these (5 compared) differ by a permutation of species on the same sites" in lines
    assert "same id in train: 1 (16.7%)" in lines


def test_repeats_within_a_split():
    dataset, test = planted()
    twice = from_entries([*test, test[0]._replace(id="again"), test[3]._replace(id="again 2")], split="test")
    assert audit(twice)["repeated_within"] == {"test": 2}
    assert audit(dataset)["repeated_within"] == {"train": 0, "test": 0}


def test_exchanges_of_equally_frequent_species():
    assert permutations(perovskite("x", 20, 22)) == [{20: 22, 22: 20, 8: 8}]
    assert len(permutations(Entry("y", np.array([3, 4, 5, 8, 8]), np.zeros((5, 3)), np.eye(3), {}))) == 5
    assert permutations(Entry("z", np.array([3, 4, 4]), np.zeros((3, 3)), np.eye(3), {})) == []


def test_neighbor_distances_equal_pymatgen_for_skewed_and_tiny_cells():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7):
        lattice = np.eye(3) * 3 + rng.normal(size=(3, 3)) * 0.8
        lattice[2] += 2 * lattice[0] - lattice[1]  # the same crystal in a skewed cell
        frac = rng.random((n, 3))
        structure = to_structure(Entry("", np.full(n, 14), frac, lattice, {}))
        ours = neighbor_distances(frac, lattice, 12)
        shells = structure.get_all_neighbors(ours.max() + 0.1)
        theirs = [sorted(neighbor.nn_distance for neighbor in shell)[:12] for shell in shells]
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_fingerprint_depends_on_the_crystal_alone_and_moves_with_it():
    rng = np.random.default_rng(1)
    row = Entry("", np.array([14, 8, 8, 22, 22, 14]), rng.random((6, 3)), np.eye(3) * 5 + rng.normal(size=(3, 3)), {})
    first = fingerprint(row)
    order, rotation = rng.permutation(6), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    change = np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]])  # determinant 1
    other = Entry(
        "", row.numbers[order], (row.frac[order] + 0.3) @ np.linalg.inv(change), change @ row.lattice @ rotation, {}
    )
    np.testing.assert_allclose(fingerprint(other), first, atol=1e-9)
    frac = np.concatenate([row.frac, row.frac + np.array([1, 0, 0])]) / np.array([2, 1, 1])
    double = Entry("", np.tile(row.numbers, 2), frac, row.lattice * np.array([2, 1, 1])[:, None], {})
    np.testing.assert_allclose(fingerprint(double), first, atol=1e-9)
    step = rng.normal(size=(6, 3))
    moved = row._replace(frac=row.frac + 0.02 * step / np.linalg.norm(step @ row.lattice, axis=1, keepdims=True))
    free_length = (abs(np.linalg.det(row.lattice)) / 6) ** (1 / 3)
    assert np.abs(fingerprint(moved) - first).max() <= 2 * 0.02 / free_length  # the bound in the docstring


def test_a_data_set_file_survives_the_round_trip(tmp_path):
    dataset, _ = planted()
    again = load(save(dataset, tmp_path / "a.npz"))
    for field in ("ids", "num_atoms", "numbers", "frac", "lattice", "split"):
        np.testing.assert_array_equal(getattr(again, field), getattr(dataset, field))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"b\.npz: not a crysjax data set"):
        load(tmp_path / "b.npz")


def test_perov_5_reports_its_swapped_cation_twins_by_itself(data_dir):
    dataset = read(data_dir / "perov_5/perov_5.npz")
    reference, target = (entries(where_split(dataset, name)) for name in ("train", "test"))
    found = compare(reference, target, limit=40, seed=0)
    assert found["same_composition"] == 2214  # 58.5 % of 3,785
    assert found["same_composition"] / found["rows"] == pytest.approx(0.585, abs=5e-4)
    assert found["same_id"] == found["exact_duplicates"] == 0
    # exchanging the two cations matches 58.1 of the 58.5 %: 99.3 % of 40 draws, less four standard errors of 1.3 %
    assert found["twins"] > 0.993 - 4 * 0.013
    assert found["two_cations"] > 0.7  # in the others, exchanging a cation and the lone anion gives a smaller RMS

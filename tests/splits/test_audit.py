"""The audit on planted leaks and on the known leak of Perov-5; the fingerprint against pymatgen."""

import json
from dataclasses import replace

import numpy as np
import pytest

from crysjax.crystallography.fingerprints import fingerprint, neighbor_distances
from crysjax.data.datasets import Dataset, Entry, entries, from_entries, load, save, where_split
from crysjax.data.readers.io import read, to_structure
from crysjax.splits import audit_columns, grouped
from crysjax.splits.audit import audit, compare, permutations
from crysjax.splits.audit_text import markdown, text

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


def leaks(report: dict) -> set[tuple[str, str]]:
    return {(row["check"], row["where"]) for row in report["findings"] if row["kind"] == "leak"}


def test_near_and_exact_duplicates_are_confirmed_and_named():
    found = audit(planted()[0])["pairs"]["train -> test"]
    assert (found["near_proposed"], found["near_duplicates"], found["exact_duplicates"]) == (2, 2, 1)
    pairs = [(pair["id"], pair["known"]) for pair in found["worst_pairs"]]
    assert pairs == [("same", "t0"), ("near", "t1")] and found["worst_pairs"][0]["rms"] < 1e-6
    closest = {(t["id"], t["known"], t["exchanged"]) for t in found["closest_twins"]}
    assert closest == {("t2", "t2", "Ti-Mo"), ("twin", "t3", "V-Tc")}


def test_what_the_fingerprint_cannot_tell_apart_is_no_duplicate():
    """Full and inverse Heusler of Li2SnZn: every site has the same distances, to other elements."""
    cell, line = (np.ones((3, 3)) - np.eye(3)) * 3.2, np.outer(np.arange(4) / 4, np.ones(3))
    full = Entry("full", np.array([3, 50, 3, 30]), line, cell, {})
    inverse = Entry("inverse", np.array([3, 3, 50, 30]), line, cell, {})
    np.testing.assert_allclose(fingerprint(full), fingerprint(inverse), atol=1e-6)
    found = audit(from_entries([full, inverse], split=["train", "test"]))["pairs"]["train -> test"]
    assert (found["near_proposed"], found["near_duplicates"], found["exact_duplicates"]) == (1, 0, 0)


def test_near_duplicates_within_a_split():
    rows = [perovskite("a", 20, 40), perovskite("b", 20, 40, length=4.05, move=0.01), perovskite("c", 21, 41)]
    inside = audit(from_entries(rows, split="train"))["within"]["train"]
    assert (inside["near_duplicates"], inside["exact_duplicates"]) == (2, 0)  # each nearly repeats the other
    assert [{pair["id"], pair["known"]} for pair in inside["worst_pairs"]] == [{"a", "b"}]


def test_families_known_from_train():
    cell = (np.ones((3, 3)) - np.eye(3)) * 2.1
    salt = Entry("salt", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), cell, {})
    test = [
        perovskite("prototype", 38, 40),  # other elements on the sites of train
        salt._replace(id="new"),
        perovskite("system", 20, 40)._replace(numbers=np.array([20, 40, 20, 8, 8])),
    ]
    train = [perovskite("t", 20, 40), perovskite("u", 21, 41)]
    report = audit(from_entries(train + test, split=["train"] * 2 + ["test"] * 3))
    families = report["pairs"]["train -> test"]["families"]
    assert {kind: overlap["rows"] for kind, overlap in families.items()} == \
        {"chemical_system": 1, "prototype": 1, "wyckoff_sequence": 1}  # fmt: skip
    assert families["prototype"]["largest"] == [["ABC3_6_5", 2, 1]]  # Pm: sites are off the center along x and z
    assert families["chemical_system"]["largest"] == [["Ca-O-Zr", 1, 1]]
    few = audit(from_entries(train + test, split=["train"] * 2 + ["test"] * 3), symmetry_rows=1)
    assert few["pairs"]["train -> test"]["families"]["prototype"]["drawn"] == [1, 1]
    assert "prototype" not in audit(planted()[0], symmetry_rows=0)["pairs"]["train -> test"]["families"]


def numeric(columns: dict, *, split=None) -> Dataset:
    """Rows of one crystal each of its own formula, with these columns, the first 80 % in train."""
    count = len(next(iter(columns.values())))
    rows = [
        Entry(f"m{i}", np.array([1 + i % 50, 51 + i // 50]), PEROVSKITE[:2], np.eye(3) * 4, {}) for i in range(count)
    ]
    made = from_entries(rows, split=["train" if i < 0.8 * count else "test" for i in range(count)])
    return replace(made, properties={name: np.array(v, np.float32) for name, v in columns.items()})


def test_scaling_over_all_splits_is_seen_and_over_train_is_not():
    x = np.random.default_rng(0).gamma(2.0, size=200)
    train, last = x[:160], np.append(np.sort(x)[:-1], 9.0)  # the largest of `last` is in test
    data = numeric({
        "all": (x - x.mean()) / x.std(), "all_ddof": (x - x.mean()) / x.std(ddof=1),
        "train": (x - train.mean()) / train.std(), "raw": x,
        "range_all": last / 9.0 - last.min() / 9.0, "range_train": (x - train.min()) / np.ptp(train),
        "flag": (x > 2).astype(float),
    })  # fmt: skip
    data.properties["range_all"] /= data.properties["range_all"].max()
    found = {row["column"]: (row["scaling"], row["on"], row["leaks"]) for row in audit_columns.preprocessing(data)}
    known = found.pop("range_train", None)
    assert found == {
        "all": ("standardized", "all rows", True), "all_ddof": ("standardized", "all rows", True),
        "train": ("standardized", "train", False), "range_all": ("min-max", "all rows", True),
    }  # fmt: skip
    assert known in (None, ("min-max", "all rows", None))  # whether the extremes of all rows lie in train is chance
    inside = np.append(np.linspace(0, 1, 160), np.full(40, 0.5))  # extremes in train: the numbers cannot tell
    assert audit_columns.preprocessing(numeric({"x": inside}))[0]["leaks"] is None


def test_what_the_provenance_declares_as_fitted():
    data = numeric({"x": np.arange(40)})
    fits = [{"what": "mean and std", "columns": ["x"], "on": ["train", "test"]}, {"what": "PCA", "on": "train"}]
    found = audit(replace(data, provenance={"parts": [{"fitted": fits}]}))
    assert [(fit["what"], fit["leaks"]) for fit in found["declared"]] == [("mean and std", True), ("PCA", False)]
    assert leaks(found) == {("preprocessing", "provenance")}
    assert leaks(audit(data)) == set()


def test_times_labels_and_ids():
    rng = np.random.default_rng(1)
    year, gap = rng.integers(1990, 2020, 100).astype(float), rng.random(100)
    data = numeric({"year": year, "gap_ev": gap, "gap_nm": 1240 / (gap + 0.1), "other": rng.random(100)})
    data.ids[1], data.ids[99] = "m0", "m3"
    report = audit(data)
    later = int((year[:80] > year[80:].min()).sum())
    assert report["time_columns"] == ["year"] and report["pairs"]["train -> test"]["time"][0]["later"] == later > 0
    assert [(row["columns"], round(row["rho"], 3)) for row in report["labels"]] == [(["gap_ev", "gap_nm"], -1.0)]
    assert report["ids"]["within"] == {"train": 1, "test": 0} and report["ids"]["in_several_splits"] == 1
    assert leaks(report) == {("time", "train -> test"), ("label leakage", "gap_ev ~ gap_nm"),
                             ("same id", "train -> test"), ("repeated ids", "within splits")}  # fmt: skip
    mostly = np.where(np.arange(1000) < 25, rng.random((2, 1000)) + 0.1, 0)  # two gaps, 0 for metals, else unrelated
    assert audit_columns._rank_correlation(*mostly) > audit_columns.RANK  # of all rows
    assert audit_columns.label_leakage(numeric(dict(zip("ab", mostly)))) == []
    ordered = grouped.by_time(data, column="year", fractions={"train": 0.8, "test": 0.2})
    assert ("time", "train -> test") not in leaks(audit(ordered))
    with pytest.raises(ValueError, match=r"audit: no property 'month' for the time; the data set has \['gap_ev'"):
        audit(data, time="month")
    names = ("year", "publication_date", "created", "relaxation_time_s", "time_step_fs", "yearning", "time")
    columns = numeric({name: gap for name in names})
    assert audit_columns.time_columns(columns) == ["year", "publication_date", "created", "time"]


def test_the_split_that_is_advised_avoids_the_leak():
    data, _ = planted()
    found = audit(data)
    assert {("exact duplicates", "train -> test"), ("near duplicates", "train -> test"), ("twins", "train -> test")} \
        <= leaks(found)  # fmt: skip
    assert all(row["avoid"].startswith(("crysjax data split --by ", "no split")) for row in found["findings"])
    for row in found["findings"]:
        by = row["avoid"].removeprefix("crysjax data split --by ").split()[0]
        assert by in grouped.SPLITS or row["avoid"].startswith("no split")
    ids = replace(data, ids=np.array([f"m{i}" for i in range(len(data))]))
    made = grouped.by_composition(ids, seed=0, fractions={"train": 0.5, "test": 0.5})
    assert leaks(audit(made)) == set()


def test_the_report_for_a_referee(tmp_path):
    from typer.testing import CliRunner

    from crysjax.cli.data import app

    path = save(planted()[0], tmp_path / "d.npz")
    options = ["--out", str(tmp_path / "r.md"), "--json", str(tmp_path / "r.json")]
    answer = CliRunner().invoke(app, ["audit", str(path), *options])
    report, page = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.md").read_text()
    assert answer.exit_code == 0 and answer.stdout.rstrip() == text(report)
    assert page == markdown(report, "d.npz") and page.startswith("# Leakage audit of d.npz")
    for row in report["findings"]:
        assert row["says"] in page and row["avoid"] in page and row["says"] in answer.stdout
    assert "| train -> test | repeat | same | t0 |" in page and "stol 0.3, angle 5.0°, ltol 0.2" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert all(len({line.count(" | ") for line in block}) == 1 for block in blocks) and len(tables) > 15
    wrong = CliRunner().invoke(app, ["audit", str(path), "--out", str(tmp_path / "r.json")])
    assert "expected a name that ends in .md; --json FILE writes JSON" in str(wrong.exception)


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

"""Stages of judging: each turns away what it should, says why, and counts can only fall."""

import numpy as np
import pytest

from crysjax.base import Estimate
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.evaluation import all_stages, kept, stages, totals
from crysjax.evaluation.failures import findings
from crysjax.physics.hull import hull
from crysjax.reports import set_report

ROCK_SALT = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], float)
ROCK_SALT = np.concatenate([ROCK_SALT, ROCK_SALT + np.array([[0.5, 0, 0]])]) % 1


def salt(name, cation=11, anion=17, edge=5.64):
    return Entry(name, np.repeat([cation, anion], 4), ROCK_SALT, edge * np.eye(3), {})


def faulty():
    """NaCl, NaCl again in a larger cell, MgO, a clash, a gas, a flat cell, and a composition that cannot balance."""
    clash = salt("clash")._replace(frac=ROCK_SALT * 0.05)
    flat = Entry(
        "flat", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0]], float), np.diag([20.0, 20.0, 0.4]), {}
    )
    odd = Entry("odd", np.array([11, 17, 17]), np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]), 5.0 * np.eye(3), {})
    rows = [salt("a"), salt("b", edge=5.7), salt("c", 12, 8, 4.21), clash, salt("gas", edge=40.0), flat, odd]
    return datasets.from_entries(rows)


def test_valid_turns_away_each_fault_with_its_own_reason():
    said = stages.valid(faulty())
    assert said.passed.tolist() == [True, True, True, False, False, False, False]
    assert said.reason.tolist()[3:] == [
        "sites too close: Na-Cl 0.14 Å; expected at least 1.80 Å",
        "volume per atom out of range: 8e+03 Å³; expected 2 to 250 Å³",
        "flat cell",
        "composition fails SMACT's charge and electronegativity test",
    ]  # fmt: skip
    assert said.columns["density_g_cm3"][0] == pytest.approx(2.163, abs=0.005)  # halite


def test_real_crystals_pass_the_bounds_on_geometry(data_dir):
    from crysjax.data.readers import io

    for name in ("perov_5/perov_5.npz", "carbon_24/carbon_24.npz"):
        said = stages.valid(datasets.where_split(io.read(data_dir / name), "test"))
        composition = "composition fails SMACT's charge and electronegativity test"
        assert set(said.reason.tolist()) <= {"", composition}


def test_repetitions_and_known_crystals_are_named():
    rows = faulty()
    unique = stages.unique(rows, processes=1)
    assert unique.reason[1] == "equals a" and unique.passed[[0, 2]].all() and not unique.passed[1]
    known = {
        "train": datasets.from_entries([salt("x", 12, 8, 4.3)]),
        "other": datasets.from_entries([salt("y", 3, 9, 4.0)]),
    }
    novel = stages.novel(rows, known, processes=1)
    assert novel.reason[2] == "equals a crystal of train" and novel.passed[0]
    assert novel.columns["new_composition"].tolist()[:3] == [1, 1, 0]
    assert "train (1 crystals), other (1 crystals)" in novel.level


def test_stability_counts_from_the_hull_and_does_not_believe_wonders():
    salts = datasets.from_entries([salt(name) for name in "abcde"])
    counts = hull.compositions(salts)[:1]
    known = hull.hull(counts, np.array([-2.0]), level=hull.Level("x", "none"), source="one salt", names=["NaCl"])
    energy = np.array([-1.95, -1.7, -2.2, -3.0, np.nan])
    said = stages.stable(
        salts, energy, known, level=known.level, measured="made up", margin_ev_per_atom=0.1, std_ev_per_atom=0.1,
        failed=["", "", "", "", "no convergence"],
    )  # fmt: skip
    np.testing.assert_allclose(said.columns["e_above_hull_ev_per_atom"][:4], [0.05, 0.3, -0.2, -1.0], atol=1e-9)
    assert said.passed.tolist() == [True, False, True, False, False]
    assert said.reason[1] == "0.300 eV/atom above the hull" and said.reason[4] == "no convergence"
    assert said.reason[3].endswith("below the hull: not believed")
    with pytest.raises(ValueError, match=r"theory .another functional."):
        other = hull.Level("another functional", "none")
        stages.stable(salts, energy, known, level=other, measured="made up", margin_ev_per_atom=0.1)


def test_windows_decide_the_target_and_an_invalid_answer_never_passes():
    value = np.array([[1.5, 0.0], [2.5, 0.0], [1.5, 9.0]])
    valid = np.array([[True, True], [True, True], [False, True]])
    found = Estimate(value, np.ones_like(value), valid)
    said = stages.on_target(["gap", "energy"], found, {"gap": (1.0, 2.0)}, measured="heads")
    assert said.passed.tolist() == [True, False, False] and said.reason[1] == "gap outside 1 to 2"
    chance = said.columns["probability_on_target"]  # the window is one std wide
    np.testing.assert_allclose(chance, [0.3829, 0.2417, 0.0], atol=1e-4)


def questions(folder):
    return all_stages.Questions(folder, {"train": datasets.from_entries([salt("x", 12, 8, 4.3)])}, processes=1)


def test_the_ledger_falls_and_totals_are_shares_with_intervals(tmp_path):
    judged = all_stages.judge(
        "set", faulty(), [{"file": "f", "entry": "e", "reason": "cut short"}], questions(tmp_path)
    )
    rows = totals.ledger(judged)
    assert [(r["stage"], r["entered"], r["passed"]) for r in rows] == [
        ("parsed", 8, 7), ("valid", 7, 3), ("unique", 3, 2), ("novel", 2, 1)
    ]  # fmt: skip
    assert rows[0]["reasons"] == {"cut short": 1} and rows[2]["reasons"] == {"equals another sample": 1}
    assert (
        rows[0]["codes"] == {"not_read": 1} and rows[2]["codes"] == {"repeated": 1} and rows[3]["codes"] == {"known": 1}
    )
    metrics = totals.metrics(judged)
    assert metrics["validity"].value == pytest.approx(3 / 7)
    assert metrics["validity"].low < 3 / 7 < metrics["validity"].high
    assert metrics["data augmentation"].value == pytest.approx((3 / 7) ** 3)  # insane cells are not compared
    assert totals.worst(judged)["novel"] == [
        {"id": "c", "index": 2, "reason": "equals a crystal of train", "code": "known"}
    ]
    missing = totals.totals(judged)["not_measured"]
    assert {
        "stability",
        "verification",
        "rediscovery",
        "synthesizability",
    } <= missing.keys() and "novelty" not in missing


def test_insane_cells_are_counted_and_never_compared(tmp_path):
    apart = np.array([[0, 0, 0], [0, 0, 0.5]])
    needle = Entry("needle", np.array([11, 17]), apart, np.diag([0.8, 0.8, 400.0]), {})
    crowd = Entry("crowd", np.full(600, 11), np.random.default_rng(0).random((600, 3)), 30 * np.eye(3), {})
    rows = datasets.from_entries([salt("a"), needle, salt("b"), crowd])
    score = lambda sane: Estimate(*np.tile([[0.5], [0.1], [1.0]], (1, len(sane)))[:, :, None])  # noqa: E731
    ask = questions(tmp_path)._replace(reference=faulty(), synthesizability=score)
    judged = all_stages.judge("set", rows, [], ask)
    np.testing.assert_array_equal(judged.synthesizability.value, [0.5, np.nan, 0.5, np.nan])
    assert judged.verdicts["valid"].reason[[1, 3]].tolist() == ["needle of a cell", "more than 500 sites"]
    for name in ("unique", "novel", "continuous"):
        assert judged.verdicts[name].asked.tolist() == [True, False, True, False]
    assert judged.verdicts["unique"].reason.tolist() == ["", "", "equals a", ""]
    assert np.isfinite(judged.features).all() and judged.space_group[[1, 3]].tolist() == [0, 0]
    found = totals.totals(judged)
    assert [row["passed"] for row in found["ledger"]] == [4, 2, 1, 1]
    assert found["metrics"]["uniqueness"]["value"] == 0.25


def test_an_interrupted_evaluation_goes_on_with_the_same_answers(tmp_path, monkeypatch):
    whole = all_stages.judge("set", faulty(), [], questions(tmp_path / "whole"))
    real = stages.novel

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "novel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        all_stages.judge("set", faulty(), [], questions(tmp_path / "cut"))
    monkeypatch.setattr(stages, "novel", real)

    def never(*_, **__):
        raise AssertionError("a finished stage was made again")

    monkeypatch.setattr(stages, "unique", never)
    resumed = all_stages.judge("set", faulty(), [], questions(tmp_path / "cut"))
    for name, said in whole.verdicts.items():
        again = resumed.verdicts[name]
        assert said.passed.tolist() == again.passed.tolist() and said.reason.tolist() == again.reason.tolist()
        assert said.level == again.level and said.columns.keys() == again.columns.keys()
        for column in said.columns:
            np.testing.assert_array_equal(said.columns[column], again.columns[column])
    np.testing.assert_array_equal(whole.features, resumed.features)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_sets_too_small_for_statistics_are_judged_all_the_same(tmp_path, count):
    needle = Entry("n", np.array([11, 17]), np.array([[0, 0, 0], [0, 0, 0.5]]), np.diag([0.8, 0.8, 400.0]), {})
    rows = [salt(name, edge=5.5 + i) for i, name in enumerate("ab"[:count])] or [needle]  # 0: none with a sane cell
    judged = all_stages.judge("few", datasets.from_entries(rows), [], questions(tmp_path)._replace(reference=faulty()))
    real = all_stages.blank("reference", datasets.take(faulty(), [0, 2, 6]), processes=1)
    warned = findings.findings(judged, real, datasets.take(faulty(), [0, 1]))
    assert {f.name for f in warned} == {"clash", "chemical implausibility", "crowded composition", "leakage"} | (
        {"symmetry breaking"} if count else set()
    )
    found = totals.totals(judged, real.samples, real.space_group)
    page = set_report.render([judged], {"few": found}, {"few": warned}, title="few", command="", reference=real)
    assert f"{len(rows)} (100.0% of {len(rows)})" in page


def test_other_crystals_or_settings_are_judged_anew(tmp_path):
    made = []

    def make():
        made.append(1)
        return stages.verdict([True], [""], "level"), {"seconds": 0.0, "calls": 0}

    path, rows = tmp_path / "v.npz", faulty()
    key = kept.digest("valid", rows, {"a": 1})
    kept.verdict(path, key, make)
    kept.verdict(path, kept.digest("valid", rows, {"a": 1}), make)
    assert len(made) == 1
    kept.verdict(path, kept.digest("valid", rows, {"a": 2}), make)
    kept.verdict(path, kept.digest("valid", datasets.take(rows, np.arange(3)), {"a": 2}), make)
    assert len(made) == 3
    path.write_bytes(path.read_bytes()[:50])  # cut short by a crash
    kept.verdict(path, "k", make)
    assert len(made) == 4

"""What a campaign hands over, from outcomes that were made by hand: the order, the files, and what a failure leaves."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from ase.io import read as ase_read
from scipy.stats import norm

from crysjax.campaign import goals as targets
from crysjax.campaign import outcomes as memory
from crysjax.campaign import outputs, outside
from crysjax.campaign import plan as plans
from crysjax.campaign.plan import Goal
from crysjax.campaign.validate import Judged
from crysjax.campaign.warnings import warnings
from crysjax.data import datasets, files
from crysjax.data.datasets import ENERGY, FORCES, Entry
from crysjax.data.readers import io
from crysjax.evaluation import ledger
from crysjax.evaluation.ledger import Row

GOALS = targets.goals({"band_gap_ev": Goal("window", 1.0, 2.0), "energy_ev": Goal("minimise")},
                      ("energy_ev", "band_gap_ev"), (0.5, 2.0))  # fmt: skip
PLAN = plans.Plan(target={"band_gap_ev": [1, 2], "energy_ev": "minimise"}, elements=["O", "Mg", "Ca", "Sr"])
MODELS = {"generator": "g", "heads": "h", "potential": "p"}
ROCK_SALT = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])


def outcomes():
    """Five rock salts: SrO outside the window, CaO twice, and two inside it; objectives by hand below."""
    cells = {"0-0001": (38, 2.6), "0-0002": (20, 2.4), "1-0000": (12, 2.1), "1-0001": (20, 2.41), "2-0003": (4, 1.9)}
    rows = [Entry(i, np.array([z, 8]), ROCK_SALT, a * (1 - np.eye(3)), {}) for i, (z, a) in cells.items()]
    gap, energy = [4.0, 1.5, 1.2, 1.5, 2.0], [-9.0, -1.0, -2.0, -3.0, -0.5]
    validated = np.stack([gap, energy], -1).astype(np.float32)
    columns = dict(features=np.zeros((5, 2), np.float32), raw=validated - 1, predicted=validated - 0.5,
                   raw_std=np.full((5, 2), 0.4, np.float32),
                   predicted_std=np.full((5, 2), 0.3, np.float32), validated=validated,
                   validated_std=np.full((5, 2), 0.1, np.float32), energy=np.arange(5, dtype=np.float32),
                   max_force=np.zeros(5, np.float32))  # fmt: skip
    return memory.extend(memory.empty(2, 2), datasets.from_entries(rows), **columns)._replace(
        rounds=3, calls={"generator": 60, "heads": 65, "potential": 35}, seconds={"relax": 1.234, "validate": 0.5}
    )


def book(folder, novelty=()):
    """A ledger of six candidates, of which five were validated; `novelty` of each at the two stages that ask heads."""
    far = dict(zip(outcomes().crystals.ids.tolist(), novelty))
    passed, ids = {}, [*outcomes().crystals.ids.tolist(), "2-0009"]
    for stage in ledger.STAGES:
        bad = {"2-0009": "sites too close"} if stage == "screened" else {}
        living = [i for i in ids if stage in ledger.STAGES[:2] or i != "2-0009"]
        notes = {
            "sampled": {"effective_particles": 3.0},
            "scored": {"p_hit_by_heads": 0.2},
            "validated": {"closeness": 0.9, "oxidation_flag": "Zr(II)", "coordination_flag": ""},
        }.get(stage, {})
        if stage in ("scored", "validated"):
            notes = {i: notes | ({"novelty": far[i], "outside": far[i] > 2.0} if i in far else {}) for i in living}
        else:
            notes = dict.fromkeys(living, notes)
        rows = [
            Row(i, stage, 0, 0, "q", 1.0, 0.1, "u", i not in bad, 0.5, bad.get(i, ""), notes=notes[i]) for i in living
        ]
        passed = ledger.append(folder / "ledger.jsonl", rows, passed)


def write(folder, found=None, **more):
    about = {"models": MODELS, "judges": "heads", "opinions": {"band_gap_ev": "the heads, which also steered"}}
    return outputs.write(folder, PLAN, GOALS, outcomes() if found is None else found, **about, **more)


def test_the_best_come_first_and_equal_crystals_once(tmp_path):
    book(tmp_path)
    summary = write(tmp_path)
    # inside the window by energy / 0.5; then outside of it, though its energy is by far the lowest
    assert [best["id"] for best in summary["best"]] == ["1-0001", "1-0000", "2-0003", "0-0001"]
    assert [best["objective"] for best in summary["best"]] == pytest.approx([-6, -4, -1, -18 + 1])
    assert [best["formula"] for best in summary["best"]] == ["CaO", "MgO", "BeO", "SrO"]
    assert (summary["candidates"], summary["hits"]["means_inside"], summary["nothing"]) == (4, 3, "")
    assert summary["best"][0]["file"] == "candidates/1_1-0001_CaO.cif"


def test_files_are_in_the_order_of_the_ranking(tmp_path):
    book(tmp_path)
    write(tmp_path)
    names = [path.name for path in sorted((tmp_path / "candidates").glob("*.cif"))]
    assert names == ["1_1-0001_CaO.cif", "2_1-0000_MgO.cif", "3_2-0003_BeO.cif", "4_0-0001_SrO.cif"]
    frames = ase_read(tmp_path / "candidates.extxyz", ":")
    assert [frame.info["id"] for frame in frames] == [name.split("_")[1] for name in names]
    assert [frame.info["band_gap_ev"] for frame in frames] == pytest.approx([1.5, 1.2, 2.0, 4.0])
    assert [frame.info["energy_ev_std"] for frame in frames] == pytest.approx([0.1] * 4)
    assert [frame.info["potential_ev_per_atom"] for frame in frames] == [3, 2, 4, 0]
    for frame, name in zip(frames, names):
        poscar = ase_read((tmp_path / "candidates" / name).with_suffix(".vasp"))
        np.testing.assert_allclose(poscar.cell[:], frame.cell[:], rtol=1e-6)
        assert poscar.get_chemical_formula() == frame.get_chemical_formula()
        conventional = ase_read(tmp_path / "candidates" / name)
        assert len(conventional) == 8  # of the two in the primitive cell
        np.testing.assert_allclose(conventional.cell.volume, 4 * frame.cell.volume, rtol=1e-6)


def test_a_cif_names_group_tolerance_orbits_and_values_and_is_the_same_crystal_to_three_readers(tmp_path):
    from pymatgen.core import Structure

    from crysjax.crystallography import matching

    book(tmp_path)
    write(tmp_path)
    path = tmp_path / "candidates" / "1_1-0001_CaO.cif"
    text = path.read_text()
    for line in ("data_1-0001", "_space_group_IT_number   225", "_crysjax_symmetry_tolerance_angstrom   0.1",
                 "_crysjax_id   '1-0001'", "_crysjax_rank   1", "_crysjax_band_gap_ev   1.5", "  4  b  ",
                 "_crysjax_predicted_energy_ev_std   0.3"):  # fmt: skip
        assert line in text, line
    assert text.count("  O  4  ") == text.count("  Ca  4  ") == 1  # one site for each orbit
    mine, frame = io.read(path), io.read(tmp_path / "candidates.extxyz")
    assert matching.novel(mine, frame).tolist() == [False] and mine.ids[0] == "1_1-0001_CaO"
    theirs, ase = Structure.from_file(path), ase_read(path)
    assert len(theirs) == len(ase) == mine.num_atoms[0] == 8
    distances = [theirs.get_distance(0, k) for k in range(1, 8)]
    np.testing.assert_allclose(min(distances), 2.41, atol=1e-5)  # a (1, 1, 0) cell of a: neighbors at a
    np.testing.assert_allclose(np.sort(ase.get_distances(0, range(1, 8), mic=True)), np.sort(distances), atol=1e-5)


def test_the_ranking_is_a_table_with_units_and_the_known_crystal(tmp_path):
    """A reference set of CaO, 1 % larger, and of SrO's geometry in other elements, which is farther from the rest."""
    known = datasets.from_entries([
        Entry("mp-7", np.array([20, 8]), ROCK_SALT, 2.434 * (1 - np.eye(3)), {}),
        Entry("mp-8", np.array([11, 17]), ROCK_SALT, 2.6 * (1 - np.eye(3)), {}),
    ])  # fmt: skip
    book(tmp_path, [0.5, 0.25, 2.5, 1.0, 3.0])
    far = {"above_hull": lambda crystals, energy: Judged(energy[:, None] / 10, np.full((4, 1), 0.2), energy != 4)}
    write(tmp_path, novelty_limit=2.0, known=known, **far)
    rows = list(csv.DictReader((tmp_path / "ranking.csv").open()))
    assert [row["id"] for row in rows] == ["1-0001", "1-0000", "2-0003", "0-0001"]
    first, _, third, last = rows
    assert (first["formula"], first["space_group"], first["space_group_number"]) == ("CaO", "Fm-3m", "225")
    assert (first["validated_band_gap_ev"], first["validated_std_band_gap_ev"]) == ("1.5", "0.1")
    assert (first["predicted_energy_ev"], first["predicted_std_energy_ev"]) == ("-3.5", "0.3")
    assert (first["known_as"], last["known_as"], last["nearest_known"]) == ("mp-7", "", "mp-8")
    assert last["nearest_known_formula"] == "NaCl"
    assert float(last["nearest_known_amd_distance_angstrom"]) < 1e-5
    # every distance of CaO grows by 0.024 / 2.41; the farthest of a hundred neighbors is at a * sqrt(12)
    assert float(first["nearest_known_amd_distance_angstrom"]) == pytest.approx(0.024 * 12**0.5, rel=0.2)
    assert [row["outside_training_data"] for row in rows] == ["0", "1", "1", "0"]
    assert first["validated_energy_above_hull_ev_per_atom"] == "0.3"
    assert third["validated_energy_above_hull_ev_per_atom"] == ""  # without an answer
    assert first["file"] == "candidates/1_1-0001_CaO.cif" and (tmp_path / first["file"]).is_file()
    write(tmp_path)
    assert not any("known" in name for name in next(csv.reader((tmp_path / "ranking.csv").open())))


def test_energy_and_forces_are_where_ase_looks_for_them(tmp_path):
    """An energy of -2 eV an atom and forces of (1, 0, -1) eV/Å, of a level that is named."""

    def label(crystals):
        n = len(crystals)
        of_sites = {FORCES: np.tile([[1.0, 0, -1]], (2 * n, 1))}
        return replace(crystals, properties=crystals.properties | {ENERGY: np.full(n, -2.0)}, site_properties=of_sites)

    book(tmp_path)
    write(tmp_path, label=label, level="a spring, no DFT")
    frames = ase_read(tmp_path / "candidates.extxyz", ":")
    assert [frame.get_potential_energy() for frame in frames] == [-4.0] * 4
    np.testing.assert_array_equal(frames[0].get_forces(), [[1, 0, -1]] * 2)
    assert {frame.info["level_of_theory"] for frame in frames} == {"a spring, no DFT"}
    assert (frames[0].info["rank"], frames[0].info["formula"]) == (1, "CaO")
    assert "_crysjax_level_of_theory   'a spring, no DFT'" in (tmp_path / "candidates/1_1-0001_CaO.cif").read_text()
    again = io.read(tmp_path / "candidates.extxyz")
    assert again.properties[ENERGY].tolist() == [-2.0] * 4 and again.ids[0] == "1-0001"


def test_the_summary_counts_what_the_ledger_holds(tmp_path):
    book(tmp_path)
    write(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["stages"]["sampled"] == {"entered": 6, "passed": 6}
    assert summary["stages"]["screened"] == {"entered": 6, "passed": 5}
    assert summary["stages"]["validated"] == {"entered": 5, "passed": 5}
    assert summary["reasons"]["screened"] == {"sites too close": 1}
    assert summary["codes"]["screened"] == {"too_close": 1}
    assert summary["oracle_calls"]["potential"] == {"calls": 35, "seconds": 2.5}  # five rows of half a second
    assert summary["seconds"] == 1.73 and summary["plan"]["target"]["band_gap_ev"] == [1, 2]
    page = (tmp_path / "report.html").read_text()
    assert "3 of 5" in page and "candidates/1_1-0001_CaO.cif" in page and "p, a machine-learned potential" in page


def test_hits_are_probabilities_beside_what_chance_gives(tmp_path):
    """Gaps of 1.5, 1.2, 2.0 and 4.0 eV within 0.1 eV of the window 1 to 2: one certain, one almost, a half, none."""
    book(tmp_path)
    summary = write(tmp_path)
    said = summary["hits"]
    assert said["found"]["expected"] == pytest.approx(1 + norm.cdf(2) + 0.5, abs=1e-5)
    assert (said["found"]["low"], said["found"]["high"]) == (2, 3)
    assert said["base_rate_among_screened"] == pytest.approx(0.2) and said["screened"] == 5
    assert said["at_random_among_screened"]["expected"] == pytest.approx(0.2 * 5) and said["validations"] == 5
    assert [best["p_hit"] for best in summary["best"]] == pytest.approx([1, norm.cdf(2), 0.5, 0], abs=1e-3)
    assert summary["resampling"] == {"effective_particles": 3.0, "lowest_tenth": 3.0}
    assert {best["flags"] for best in summary["best"]} == {"Zr(II)"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("Zr(II)") == 4 + 4 + 1  # the ranking, the facts beside each structure, the tile of the best
    for words in (
        "2.5 (2 to 3) of 5",
        "1.0 (0 to 3) of 5",
        "20.0 %",
        "the heads, which also steered",
        "3.00 in the mean",
    ):
        assert words in page, words


def test_how_far_candidates_are_is_in_the_summary_and_the_report(tmp_path):
    """Novelties of SrO, CaO, MgO, CaO again, BeO against a limit of 2: two of five are beyond."""
    book(tmp_path, [0.5, 0.25, 2.5, 1.0, 3.0])
    summary = write(tmp_path, novelty_limit=2.0)
    found = {"crystals": 5, "outside": 2, "median_novelty": 1.0}
    assert summary["novelty"] == {"limit": 2.0, "scored": found, "validated": found}
    assert [(b["id"], b["novelty"], b["outside"]) for b in summary["best"]] == [
        ("1-0001", 1.0, False), ("1-0000", 2.5, True), ("2-0003", 3.0, True), ("0-0001", 0.5, False),
    ]  # fmt: skip
    (said,) = summary["warnings"]
    assert said["name"] == outside.NAME and said["value"] == 0.4 and said["detected"]
    assert said["worst"] == ["2-0003", "1-0000"] and "2 of 5 validated candidates" in said["explanation"]
    page = (tmp_path / "report.html").read_text()
    assert page.count(", outside</td>") == 2 and "2.50, outside" in page and ">1.00<" in page and ">novelty<" in page


def test_heads_that_know_no_limit_say_nothing(tmp_path):
    book(tmp_path)
    summary = write(tmp_path)
    assert summary["novelty"] is None and summary["warnings"] == []
    assert summary["best"][0]["novelty"] is None and not summary["best"][0]["outside"]


def test_a_warning_is_one_in_a_thousand():
    """Of 100 held-out crystals 1 is beyond the limit in the mean, and P(5 or more) = 0.0034, P(6 or more) = 0.0005."""
    for outside_count, detected in ((5, False), (6, True)):
        far = {f"{i}": (3.0 - i / 100, i < outside_count) for i in range(100)}
        (said,) = outside.warning(far, far, 2.0)
        assert said.detected == detected and said.worst.tolist() == list(range(outside_count))
        assert said.threshold == pytest.approx(0.055)
    assert outside.warning(["a"], {}, 2.0) == [] == outside.warning(["a"], {"a": (9.0, True)}, np.inf)
    one = outside.warning(["a"], {"a": (9.0, True)}, 2.0)[0]
    assert not one.detected and one.explanation.endswith("too few to tell")


def test_without_a_candidate_it_says_why(tmp_path):
    rows = [Row(f"0-{i}", "sampled", 0, 0, "atoms", 2.0, None, "", True, 0.1) for i in range(5)]
    passed = ledger.append(tmp_path / "ledger.jsonl", rows, {})
    why = ["sites too close"] * 3 + ["equals 0-7", "equals 0-8"]
    rows = [r._replace(stage="screened", valid=False, reason=w) for r, w in zip(rows, why)]
    ledger.append(tmp_path / "ledger.jsonl", rows, passed)
    summary = write(tmp_path, memory.empty(2, 2)._replace(rounds=1))
    said = (
        "No candidate was validated: 5 were sampled, 5 reached the stage 'screened' and none passed it: "
        f"3 for 'sites too close', 2 for {ledger.TWIN!r}."
    )
    assert summary["nothing"] == said and summary["best"] == [] and summary["candidates"] == 0
    assert summary["reasons"]["screened"] == {"sites too close": 3, ledger.TWIN: 2}
    assert summary["codes"]["screened"] == {"too_close": 3, "repeated": 2}
    assert said.split(",")[0] in (tmp_path / "report.html").read_text()
    assert (tmp_path / "candidates.extxyz").read_text() == "" and not any((tmp_path / "candidates").iterdir())


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_new_outputs_take_the_place_of_old_ones_whole_or_not_at_all(tmp_path, monkeypatch):
    book(tmp_path)
    write(tmp_path)
    before, calls = contents(tmp_path), []
    found = outcomes()
    moved = found._replace(crystals=replace(found.crystals, ids=np.array([f"9-{i:04d}" for i in range(5)])))

    def failing(path, data):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return written(path, data)

    written = files.write
    monkeypatch.setattr(files, "write", failing)
    with pytest.raises(OSError, match=r"No space left on device: '.*candidates'"):
        write(tmp_path, moved)
    after = contents(tmp_path)
    assert {k: v for k, v in after.items() if k.startswith("candidates/")} == {
        k: v for k, v in before.items() if k.startswith("candidates/")
    }
    monkeypatch.undo()
    write(tmp_path, moved)
    names = sorted(path.name for path in (tmp_path / "candidates").iterdir())
    assert len(names) == 8 and all("_9-" in name for name in names)  # none of the former run is left


def test_predictions_that_were_not_kept_are_warned_of():
    rng = np.random.default_rng(0)
    assert warnings(outcomes(), GOALS) == []  # five candidates tell nothing

    def promised(sigma, count=40):
        validated = rng.normal(size=(count, 2)).astype(np.float32)
        said = validated + sigma * rng.normal(size=(count, 2))
        std = np.full((count, 2), 0.1)
        return outcomes()._replace(
            validated=validated, predicted=said, predicted_std=std, validated_std=np.zeros((count, 2))
        )

    assert not any(f.detected for f in warnings(promised(0.1), GOALS))
    proud = warnings(promised(0.5)._replace(validated_std=np.full((40, 2), 9.0)), GOALS)  # the law is that of the value
    assert all(f.detected for f in proud)
    assert [f.name for f in proud] == ["miscalibration of band_gap_ev", "miscalibration of energy_ev"]

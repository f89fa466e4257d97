"""`crysjax sample`, `predict`, `relax` and `evaluate` on models that are hardly trained: what they promise anyway."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from ase.io import read as ase_read

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers import io


def compositions(dataset) -> list[list[int]]:
    return [sorted(entry.numbers.tolist()) for entry in datasets.entries(dataset)]


def bits(path) -> list[bytes]:
    """Every array of a data set; the zip file around them holds the time."""
    with np.load(path) as file:
        return [file[name].tobytes() for name in file.files]


@pytest.fixture(scope="module")
def like_test(crysjax, world, tmp_path_factory):
    """A sample for each crystal of the test split."""
    out = tmp_path_factory.mktemp("like") / "s.npz"
    answer = crysjax("sample", world.generator, "--like", f"{world.data}:test", "--out", out, "--steps", 2)
    assert answer.code == 0, answer.err
    return out


def test_given_compositions_are_kept(like_test, world):
    drawn, given = datasets.load(like_test), datasets.where_split(datasets.load(world.data), "test")
    assert drawn.ids.tolist() == given.ids.tolist()
    assert compositions(drawn) == compositions(given)
    assert np.isfinite(drawn.frac).all() and (np.abs(np.linalg.det(drawn.lattice)) > 1).all()
    assert not np.allclose(drawn.frac, given.frac, atol=0.05)  # drawn, not copied


def test_only_the_elements_asked_for(crysjax, world, tmp_path):
    out = tmp_path / "s.extxyz"
    options = ["--elements", "O,Ti", "--max-atoms", 3, "-n", 40, "--steps", 2, "--out", out]
    answer = crysjax("sample", world.generator, *options)
    assert answer.out.endswith(f"{out}: 40 crystals\n")
    frames = ase_read(out, ":")
    assert len(frames) == 40 and {len(frame) for frame in frames} == {2, 3}
    assert {symbol for frame in frames for symbol in frame.symbols} == {"O", "Ti"}


def test_a_seed_repeats_and_another_does_not(crysjax, world, tmp_path):
    def drawn(seed: int, name: str) -> list[bytes]:
        crysjax("sample", world.generator, "-n", 8, "--steps", 2, "--seed", seed, "--out", tmp_path / name)
        return bits(tmp_path / name)

    first = drawn(1, "a.npz")
    assert drawn(1, "b.npz") == first
    assert drawn(2, "c.npz") != first


def test_unknown_elements_in_like_are_told(crysjax, world, tmp_path):
    given = datasets.where_split(datasets.load(world.data), "test")
    strange = replace(given, numbers=np.where(given.numbers == 20, 26, given.numbers).astype(np.uint8))
    datasets.save(strange, tmp_path / "fe.npz")
    out = tmp_path / "s.npz"
    answer = crysjax("sample", world.generator, "--like", tmp_path / "fe.npz", "--out", out, "--steps", 2)
    assert answer.code == 0
    assert answer.err == "crysjax: --like: the model was not trained on Fe; such samples mean little\n"
    assert compositions(datasets.load(out)) == compositions(strange)


def predicted(crysjax, world, crystals, out) -> dict[str, list[float]]:
    answer = crysjax("predict", crystals, "--model", world.heads, "--out", out)
    assert answer.code == 0, answer.err
    head, *rows = csv.reader(out.read_text().splitlines())
    names = ("formation_energy_ev_per_atom", "band_gap_ev")
    assert head == ["id", *(f"{name}{end}" for name in names for end in ("", "_std")), "novelty", "outside"]
    return {name: [float(v) for v in values] for name, *values in rows}


def test_predictions_do_not_depend_on_the_company(crysjax, world, tmp_path):
    together = predicted(crysjax, world, world.data, tmp_path / "all.csv")
    alone = predicted(crysjax, world, f"{world.data}:test", tmp_path / "test.csv")
    assert len(together) == 60 and list(alone) == [f"c{i}" for i in range(50, 60)]
    for name, values in alone.items():
        np.testing.assert_allclose(values, together[name], rtol=1e-3, atol=2e-5)  # five digits are written
    known = datasets.load(world.data).properties["formation_energy_ev_per_atom"]
    energy, std = np.array([together[f"c{i:02d}"][:2] for i in range(60)]).T
    assert (std > 0).all()
    assert np.corrcoef(energy, known)[0, 1] > 0.5  # thirty steps are enough to see the heavy atoms


def test_what_no_model_takes_has_empty_cells_and_what_is_far_is_told(crysjax, world, tmp_path):
    """A cell of lead, which training never saw, is outside; one of 0.9 Å between planes is refused."""
    rows = [
        Entry("lead", np.array([82]), np.zeros((1, 3)), 3.5 * (np.ones((3, 3)) - np.eye(3)) / 2**0.5, {}),
        Entry("needle", np.array([8, 8]), np.array([[0, 0, 0], [0, 0.5, 0.5]]), np.diag([0.9, 9.0, 9.0]), {}),
    ]
    datasets.save(datasets.from_entries(rows), tmp_path / "odd.npz")
    answer = crysjax("predict", tmp_path / "odd.npz", "--model", world.heads, "--out", tmp_path / "odd.csv")
    assert answer.code == 0 and "1 of 2 crystals have no prediction" in answer.err
    assert "; the first is row 2 (id needle), 36.4 Å³ per atom\n" in answer.err
    assert "1 of 2 crystals are outside the training data" in answer.err
    lead, needle = csv.DictReader((tmp_path / "odd.csv").read_text().splitlines())
    assert float(lead["outside"]) == 1 and float(lead["band_gap_ev"]) >= 0
    assert needle["band_gap_ev"] == needle["band_gap_ev_std"] == needle["novelty"] == ""


def test_samples_say_how_far_they_are_as_predict_does(crysjax, world, tmp_path):
    out, table = tmp_path / "s.npz", tmp_path / "s.csv"
    command = ["sample", world.generator, "--out", out, "--steps", 2, "-n", 12]
    answer = crysjax(*command, "--novelty", world.heads)
    assert answer.code == 0, answer.err
    found = datasets.load(out).properties
    assert crysjax("predict", out, "--model", world.heads, "--out", table).code == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for name in ("novelty", "outside"):
        expected = [float(row[name] or "nan") for row in rows]
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3)
    known = found["novelty"][np.isfinite(found["novelty"])]
    outside = int(np.nansum(found["outside"]))
    assert f"{outside} of {len(known)} samples ({outside / len(known):.1%}) are outside the training data" in answer.err
    assert f"the median is {np.median(known):.2f}" in answer.err
    assert crysjax(*command).code == 0 and not datasets.load(out).properties
    refused = crysjax(*command, "--novelty", world.generator)
    assert refused.code == 2 and "expected one of kind 'heads'" in refused.err


def relaxed(crysjax, world, out, *options):
    answer = crysjax("relax", f"{world.data}:test", "--potential", world.potential, "--out", out, *options)
    assert answer.code == 0, answer.err
    return answer, datasets.load(out)


def test_relaxation_lowers_the_energy(crysjax, world, tmp_path):
    _, start = relaxed(crysjax, world, tmp_path / "a.npz", "--steps", 1, "--fmax", 0)
    answer, end = relaxed(crysjax, world, tmp_path / "b.npz", "--steps", 20, "--fmax", 0)
    given = datasets.where_split(datasets.load(world.data), "test")
    np.testing.assert_allclose(start.frac, given.frac, atol=1e-6)  # the first evaluation moves nothing
    before, after = (d.properties["potential_ev_per_atom"] for d in (start, end))
    assert (after < before).all() and (end.properties["valid"] == 1).all()
    at_rest = int((end.properties["fmax_ev_per_angstrom"] == 0).sum())  # by symmetry, once the cell is right
    assert answer.out.endswith(f"{tmp_path / 'b.npz'}: 10 crystals, {at_rest} converged, 0 failed\n")
    assert compositions(end) == compositions(given) and end.ids.tolist() == given.ids.tolist()


def test_a_relaxed_crystal_has_no_label_of_the_unrelaxed_one(crysjax, one_line, world, tmp_path):
    """Energies belong to the positions they were computed at: not kept, and told; a pressure that is none is named."""
    answer, end = relaxed(crysjax, world, tmp_path / "a.npz", "--steps", 1)
    assert "band_gap_ev" in end.properties and "potential_ev_per_atom" in end.properties
    assert not {datasets.ENERGY, "formation_energy_ev_per_atom"} & set(end.properties)
    lost = f"{datasets.ENERGY}, formation_energy_ev_per_atom"
    assert f"not kept, for they belong to the unrelaxed crystals: {lost}\n" in answer.err
    command = ("relax", world.data, "--potential", world.potential, "--out", tmp_path / "b.npz")
    one_line(crysjax(*command, "--pressure-gpa", "nan"), "--pressure-gpa nan: expected a finite number")


def test_evaluation_shows_floors_beside_the_match(crysjax, world, like_test, tmp_path):
    truth, train = f"{world.data}:test", f"{world.data}:train"
    options = ["--match", truth, "--train", train, "--processes", 1, "--out", tmp_path]
    answer = crysjax("evaluate", like_test, *options)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.split()[:1] == ["samples"])
    assert lines[place - 1].split() == ["one", "try", "per", "row", "match", "RMSE", "offered"]
    end = next(i for i, line in enumerate(lines) if "crystals, 0 could not be read" in line)  # the stages come after
    floors = [line.strip() for line in lines[place + 1 : end]]
    assert floors and all(line.startswith("floor: ") and "%" in line for line in floors)
    match = json.loads((tmp_path / "match.json").read_text())
    assert 0 <= match["samples"]["rate"] <= 1
    assert match.keys() - {"tolerances", "samples"} == {line.split("  ")[0] for line in floors}
    name = like_test.name.split(".")[0]
    rows = list(csv.DictReader((tmp_path / name / "structures.csv").open()))
    assert [row["id"] for row in rows] == [f"c{i}" for i in range(50, 60)]
    totals = json.loads((tmp_path / "metrics.json").read_text())[name]
    assert np.mean([int(row["valid"]) for row in rows]) == pytest.approx(totals["metrics"]["validity"]["value"])
    passed = [row["passed"] for row in totals["ledger"]]
    assert passed == sorted(passed, reverse=True) and passed[-1] == sum(int(row["passed_all"]) for row in rows)


def test_a_set_against_itself_matches_and_holds_nothing_new(crysjax, world, tmp_path):
    truth = f"{world.data}:test"
    answer = crysjax("evaluate", truth, "--match", truth, "--train", truth, "--no-floors", "--processes", 1)
    assert "samples" in answer.out and "100.0 %   0.000" in answer.out
    assert "no floors beside this match rate: give --floors" in answer.out
    assert re.search(r"novelty +0\.0 %", answer.out)


def test_sets_stand_side_by_side_with_the_ceiling_and_what_was_not_read(crysjax, world, like_test, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "cut.cif").write_text("data_cut\n_cell_length_a 4\n")
    io.write_crystals(datasets.take(datasets.load(like_test), [0, 1]), folder / "good")
    [file.rename(folder / file.name) for file in (folder / "good").iterdir()]
    (folder / "good").rmdir()
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(world.plan()))
    answer = crysjax(
        "evaluate", like_test, folder, "--train", f"{world.data}:train", "--reference", f"{world.data}:test",
        "--target", plan, "--processes", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [*found] == [like_test.name.split(".")[0], "mixed", "ceiling"]
    assert (found["mixed"]["crystals"], found["mixed"]["not_read"]) == (2, 1)
    assert found["mixed"]["ledger"][0]["passed"] == 2 and found["mixed"]["ledger"][0]["entered"] == 3
    rows = list(csv.DictReader((tmp_path / "out" / "mixed" / "structures.csv").open()))
    assert len(rows) == 3 and rows[-1]["id"] == "cut.cif" and rows[-1]["reason"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mixed" in page and "ceiling" in page and "cut" in page
    asked = {name: {f["name"] for f in totals["findings"]} for name, totals in found.items()}
    assert asked["mixed"] >= {"clash", "leakage"} and "hidden shift" not in asked["mixed"]  # two crystals have no shift
    assert asked[like_test.name.split(".")[0]] >= {"clash", "leakage", "hidden shift", "diversity collapse"}


def test_energies_that_changed_are_noticed_and_levels_may_not_differ(crysjax, world, like_test, tmp_path):
    table, ids = tmp_path / "dft.csv", datasets.load(like_test).ids
    options = ["--hull", f"{world.data}:train", "--dft", table, "--processes", 1, "--out", tmp_path / "out"]

    def stable(energy, *more):
        table.write_text("id,formation_energy_ev_per_atom\n" + "".join(f"{i},{energy}\n" for i in ids))
        answer = crysjax("evaluate", like_test, *options, *more)
        if answer.code:
            return answer
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())[like_test.name.split(".")[0]]
        return found["metrics"]["stability"]["value"]

    assert (stable(-20.0), stable(5.0)) == (0.0, 0.0)  # so far below that the hull must have holes
    other = stable(5.0, "--level", "another functional")
    assert other.code == 2 and "another functional" in other.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hull", "TRAIN"], "--potential or --dft is missing"),
        (["--potential", "student"], "--hull is missing"),
        (["--hull", "TRAIN", "--dft", "TABLE"], "expected columns id and formation_energy_ev_per_atom"),
        (["--hull", "TRAIN", "--potential", "nobody"], "'nobody' is neither a file nor a model"),
    ],
)
def test_questions_that_lack_something_are_refused_in_one_line(crysjax, world, like_test, tmp_path, options, said):
    table = tmp_path / "table.csv"
    table.write_text("id,energy\na,1\n")
    named = {"TRAIN": f"{world.data}:train", "TABLE": table}
    answer = crysjax("evaluate", like_test, *[named.get(option, option) for option in options])
    assert answer.code == 2 and said in answer.err and len(answer.err.strip().splitlines()) == 1


def test_training_data_is_never_compared_with_itself(crysjax, world, like_test, tmp_path):
    train = f"{world.data}:train"
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(world.plan()))
    options = ["--train", train, "--target", plan, "--no-ceiling", "--processes", 1]
    answer = crysjax("evaluate", like_test, *options)
    assert answer.code == 0 and "clash:" in answer.out, answer.err
    assert "leakage" not in answer.out and "miscalibration" not in answer.out
    same = crysjax("evaluate", like_test, *options, "--reference", train)
    assert "leakage:" not in same.out and "--reference: the same crystals as --train" in same.err
    apart = crysjax("evaluate", like_test, *options, "--reference", f"{world.data}:test")
    assert "leakage: 0.00 % of the test crystals" in apart.out


def test_the_match_rate_comes_first_and_alone_if_asked(crysjax, world, like_test, tmp_path):
    truth, train = f"{world.data}:test", f"{world.data}:train"
    options = ["--match", truth, "--train", train, "--processes", 1]
    answer = crysjax("evaluate", like_test, *options)
    assert answer.out.index("StructureMatcher") < answer.out.index("crystals, 0 could not be read")
    assert "rediscovery" in answer.out and "leakage: 0.00 %" in answer.out  # the true structures are the reference
    alone = crysjax("evaluate", like_test, *options, "--match-only", "--no-floors")
    assert alone.code == 0 and "valid" not in alone.out and alone.err == ""
    rate = next(line for line in alone.out.splitlines() if line.split()[:1] == ["samples"])
    assert rate.split() in map(str.split, answer.out.splitlines())
    other = tmp_path / "other.npz"
    datasets.save(datasets.where_split(datasets.load(world.data), "test"), other)
    two = crysjax("evaluate", like_test, other, *options, "--match-only", "--no-floors", "--out", tmp_path / "out")
    assert two.code == 0 and "other" in two.out and "100.0 %" in two.out
    assert (tmp_path / "out" / "other" / "match.csv").exists()
    missing = crysjax("evaluate", like_test, "--match-only")
    assert missing.code == 2 and "expected --match" in missing.err


def test_distances_of_distributions_are_named_so(crysjax, world, like_test):
    answer = crysjax("evaluate", like_test, "--reference", f"{world.data}:test", "--no-ceiling", "--processes", 1)
    names = ("density_g_cm3", "num_elements", "space group (total variation)")
    lines = [line.strip() for line in answer.out.splitlines()]
    for name in names:
        assert any(line.startswith(f"distance of {name}") for line in lines)
        assert not any(line.startswith(name) for line in lines)
    assert any(line.startswith("no space group found") for line in lines)


def test_a_suffix_that_is_not_written_is_refused_before_anything_is_drawn(crysjax, world, one_line, tmp_path):
    one_line(crysjax("sample", world.generator, "--out", tmp_path / "x.foo"), r"\.foo is not written; expected \.npz")
    assert not (tmp_path / "x.foo").exists()

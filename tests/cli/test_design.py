"""`crysjax design` from plan to report, and that it goes on exactly where it was stopped."""

import csv
import html.parser
import json
import shutil
import signal
from typing import NamedTuple

import numpy as np
import pytest
from ase.io import read as ase_read
from pymatgen.core import Structure
from scipy.stats import norm

from crysjax.campaign import store
from crysjax.data import datasets, files
from crysjax.evaluation import ledger

ENERGY, GAP = "formation_energy_ev_per_atom", "band_gap_ev"


def same(found, expected) -> None:
    """Every byte but those that hold the time; the first line that differs is shown."""
    for name, one, other in zip(Outputs._fields, found, expected):
        if isinstance(one, bytes):
            for a, b in zip(one.splitlines(), other.splitlines()):
                assert a == b, name
        assert one == other, name


class Outputs(NamedTuple):
    """What a run left, as far as it does not hold the time."""

    ledger: bytes
    extxyz: bytes
    cifs: dict[str, bytes]
    ranking: list
    stages: dict
    state: dict[str, bytes]


def outputs(folder) -> Outputs:
    summary = json.loads((folder / "summary.json").read_text())
    arrays, meta = store.load_state(folder / "state.npz")
    state = {name: array.tobytes() for name, array in arrays.items()} | {"calls": str(meta["calls"])}
    cifs = {path.name: path.read_bytes() for path in sorted((folder / "candidates").iterdir())}
    return Outputs(
        (folder / "ledger.jsonl").read_bytes(), (folder / "candidates.extxyz").read_bytes(), cifs,
        [summary["best"], summary["hits"], summary["resampling"], summary["oracle_calls"]],
        {"stages": summary["stages"], "reasons": summary["reasons"]}, state,
    )  # fmt: skip


OTHERS = ("none", "gradient", "sgld", "psgld")  # "resample" is what all other tests here use
ALL = """
import json, sys
from crysjax.cli import main
codes = {}
for name in sys.argv[2:]:
    try:
        main(["design", f"{sys.argv[1]}/{name}.yaml", "--out", f"{sys.argv[1]}/{name}"])
    except SystemExit as left:
        codes[name] = left.code
print(json.dumps(codes))
"""


@pytest.fixture(scope="module", autouse=True)
def guided(world, write, start, tmp_path_factory):
    """Campaigns with every other guidance: they compile for long, so a process of their own is at it all the while."""
    folder = tmp_path_factory.mktemp("guided")
    for name in OTHERS:
        write(folder / f"{name}.yaml", world.plan(guidance=name, rounds=1))
    process = start(folder, *OTHERS, code=ALL)
    yield folder, process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def codes(guided):
    """How these campaigns ended."""
    said, err = guided[1].communicate(timeout=600)
    unused = "crysjax: guidance.steps is not used by guidance: none\n"
    assert guided[1].returncode == 0 and err == unused, err
    return json.loads(said.splitlines()[-1])


def test_the_ledger_has_every_candidate_at_every_stage(designed, world):
    rows = ledger.read(designed[0] / "ledger.jsonl")
    ledger.passed_stages(rows)  # an error if one entered a stage out of turn
    counts = ledger.counts(rows)
    assert counts["sampled"]["entered"] == 3 * 16
    entered = [counts[stage]["entered"] for stage in ledger.STAGES]
    passed = [counts[stage]["passed"] for stage in ledger.STAGES]
    assert entered[1:] == passed[:-1] and entered == sorted(entered, reverse=True)
    assert 0 < counts["relaxed"]["entered"] <= world.plan()["validations"]
    for row in rows:
        assert row.valid != bool(row.reason)
        assert row.seed == 0 and row.candidate.startswith(f"{row.round}-") and row.quantity
        assert row.cost > 0 or row.stage == "selected"
        assert row.value is not None or not row.valid
        if row.stage in ("scored", "validated"):
            assert row.std > 0 and row.unit and row.properties.keys() == {ENERGY, GAP}
            assert row.properties[GAP][0] >= 0 and (row.p_hit is None or 0 <= row.p_hit <= 1)
            assert row.p_hit is not None or not row.valid
    assert any(not row.valid and row.stage == "screened" for row in rows)  # failures are there to be seen


def test_the_summary_agrees_with_the_ledger(designed):
    folder, answer = designed
    rows = ledger.read(folder / "ledger.jsonl")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stages"] == ledger.counts(rows) and summary["reasons"] == ledger.reasons(rows)
    assert summary["rounds"] == 3 and summary["plan"]["guidance"] == "resample"
    relaxations = [round(row.cost / 0.002) for row in rows if row.stage == "relaxed"]
    assert summary["oracle_calls"]["potential"]["calls"] == sum(relaxations)
    assert summary["oracle_calls"]["generator"]["calls"] == 3 * 16 * 2  # a pool of two for each candidate
    line = next(line for line in answer.out.splitlines() if line.startswith("sampled "))
    assert line == ", ".join(f"{stage} {count['passed']}" for stage, count in summary["stages"].items())


def test_hits_are_added_up_from_the_ledger(designed):
    folder, answer = designed
    rows, summary = ledger.read(folder / "ledger.jsonl"), json.loads((folder / "summary.json").read_text())
    said, kept = summary["hits"], {file.name.split("_")[1] for file in (folder / "candidates").iterdir()}
    for row in rows:
        if row.stage in ("scored", "validated") and row.valid:  # gap and its std tell the probability
            gap, std = row.properties[GAP]
            assert row.p_hit == pytest.approx(norm.cdf((2 - gap) / std) - norm.cdf((1 - gap) / std), abs=1e-4)
    validated = [row.p_hit for row in rows if row.stage == "validated" and row.candidate in kept]
    assert said["found"]["expected"] == pytest.approx(sum(validated), abs=1e-4)
    assert said["validations"] == sum(row.stage == "relaxed" for row in rows)
    by_heads = [row.notes["p_hit_by_heads"] for row in rows if row.stage == "scored" and row.valid]
    assert said["screened"] == len(by_heads) > 0
    assert said["base_rate_among_screened"] == pytest.approx(np.mean(by_heads), abs=1e-6)
    effective = [row.notes["effective_particles"] for row in rows if row.stage == "sampled"]
    assert len(effective) == 48 and all(1 <= n <= 2 for n in effective) and min(effective) < 1.99
    assert summary["resampling"]["effective_particles"] == pytest.approx(np.mean(effective), abs=0.01)
    assert f"hits expected in {said['validations']} validations; " in answer.out and "meet the target" not in answer.out
    assert "No other judge but DFT" in said["judged_by"][GAP]


def test_how_far_candidates_are_agrees_with_predict(designed, world, crysjax, tmp_path):
    """Of the relaxed candidates as of any crystals: the heads' novelty and limit, as `crysjax predict` says them."""
    folder, answer = designed
    rows, summary = ledger.read(folder / "ledger.jsonl"), json.loads((folder / "summary.json").read_text())
    notes = {row.candidate: row.notes for row in rows if row.stage == "validated"}
    said = crysjax("predict", folder / "candidates.extxyz", "--model", world.heads, "--out", tmp_path / "p.csv")
    assert said.code == 0, said.err
    for row in csv.DictReader((tmp_path / "p.csv").read_text().splitlines()):
        assert notes[row["id"]]["novelty"] == pytest.approx(float(row["novelty"]), abs=2e-3)  # positions are rounded
        assert notes[row["id"]]["outside"] == (notes[row["id"]]["novelty"] > summary["novelty"]["limit"])
    for stage in ("scored", "validated"):
        passed = [row.notes for row in rows if row.stage == stage and row.valid]
        assert summary["novelty"][stage]["outside"] == sum(n["outside"] for n in passed)
        assert summary["novelty"][stage]["crystals"] == len(passed)
    assert "outside the training data of the heads" in answer.out
    assert summary["warnings"][0]["name"] == "outside the training data"
    assert all(best["novelty"] == pytest.approx(notes[best["id"]]["novelty"], rel=1e-3) for best in summary["best"])


def test_candidates_are_read_back_in_the_order_of_their_rank(designed):
    folder = designed[0]
    frames, files = ase_read(folder / "candidates.extxyz", ":"), sorted((folder / "candidates").glob("*.cif"))
    assert len(frames) == len(files) > 1
    assert [file.name.split("_")[1] for file in files] == [frame.info["id"] for frame in frames]
    objective = [frame.info["objective"] for frame in frames]
    inside = [1 <= frame.info[GAP] <= 2 for frame in frames]
    assert sorted(zip((not ok for ok in inside), objective)) == list(zip((not ok for ok in inside), objective))
    for frame, file in zip(frames, files):
        poscar, again = Structure.from_file(file.with_suffix(".vasp")), ase_read(file)
        assert sorted(s.specie.Z for s in poscar) == sorted(frame.numbers)
        assert poscar.volume == pytest.approx(frame.get_volume(), rel=1e-5)
        symmetrized = Structure.from_file(file)  # conventional, and idealized within the tolerance of 0.1 Å
        assert symmetrized.composition.reduced_formula == poscar.composition.reduced_formula
        assert sorted(s.specie.Z for s in symmetrized) == sorted(again.numbers)
        assert symmetrized.volume / len(symmetrized) == pytest.approx(frame.get_volume() / len(frame), rel=0.05)
        assert np.isfinite(frame.get_potential_energy()) and frame.get_forces().shape == (len(frame), 3)
        assert frame.get_potential_energy() / len(frame) == pytest.approx(frame.info["potential_ev_per_atom"], abs=1e-4)
    validated = {row.candidate: row for row in ledger.read(folder / "ledger.jsonl") if row.stage == "validated"}
    for frame in frames:
        assert frame.info["objective"] == pytest.approx(validated[frame.info["id"]].value, rel=1e-4)
        assert frame.info[f"{GAP}_std"] == pytest.approx(validated[frame.info["id"]].properties[GAP][1], rel=1e-4)


class Sources(html.parser.HTMLParser):
    """Everything that a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "data", "poster", "srcset")]
        self.found += [value for name, value in attributes if tag == "link" and name == "href"]


def test_the_report_stands_alone(designed):
    folder = designed[0]
    page = (folder / "report.html").read_text()
    reader = Sources()
    reader.feed(page)
    assert reader.found == [] and "@import" not in page and "url(" not in page and "fetch(" not in page
    addresses = {part.split('"')[0] for part in page.split("http")[1:] if part.startswith(("://", "s://"))}
    assert all("w3.org" in address for address in addresses)  # a name space is no source
    for file in (folder / "candidates").glob("*.cif"):
        assert f'href="candidates/{file.name}"' in page


def test_another_seed_gives_other_candidates(designed, crysjax, world, write, tmp_path):
    crysjax("design", write(tmp_path / "plan.yaml", world.plan(rounds=1)), "--out", tmp_path, "--seed", 1)
    rows, first = (ledger.read(folder / "ledger.jsonl") for folder in (tmp_path, designed[0]))
    assert {row.seed for row in rows} == {1}
    screened = [[r.value for r in book if r.stage == "screened" and r.round == 0] for book in (rows, first)]
    assert screened[0] != screened[1]


def test_stopped_by_ctrl_c_it_goes_on_as_if_nothing_had_been(designed, start, crysjax, plan, tmp_path):
    process = start("design", plan, "--out", tmp_path)
    for line in process.stdout:
        if line.startswith("round 2/3 sample"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, (out, err)
    done = store.load_state(tmp_path / "state.npz")[1]["rounds"]
    assert 1 <= done < 3 and not (tmp_path / "summary.json").exists()
    kept = f"{done} of 3 rounds in {tmp_path} are kept; the same command goes on from there"
    assert err == f"crysjax: stopped by Ctrl-C; {kept}\n"
    answer = crysjax("design", plan, "--out", tmp_path)
    assert answer.code == 0 and f"round {done}/3" not in answer.out
    same(outputs(tmp_path), outputs(designed[0]))


def test_killed_within_a_line_of_the_ledger_it_goes_on_too(designed, crysjax, plan, tmp_path, monkeypatch):
    append, state = ledger.append, {}

    def dying(path, rows, passed):
        rows = list(rows)
        if rows and rows[0].round == 2 and rows[0].stage == "scored":
            state["left"] = path.read_bytes() + ledger.line(rows[0]).encode()[:40]
            path.write_bytes(state["left"])
            raise SystemExit(-9)
        return append(path, rows, passed)

    monkeypatch.setattr(ledger, "append", dying)
    assert crysjax("design", plan, "--out", tmp_path).code == -9
    monkeypatch.undo()
    assert (tmp_path / "ledger.jsonl").read_bytes() == state["left"]
    assert len(ledger.read(tmp_path / "ledger.jsonl")) == state["left"].count(b"\n")  # all but the broken line
    assert crysjax("design", plan, "--out", tmp_path).code == 0
    same(outputs(tmp_path), outputs(designed[0]))


def test_a_finished_run_is_only_written_again(designed, crysjax, plan, tmp_path):
    shutil.copytree(designed[0], tmp_path / "out")
    (tmp_path / "out" / "report.html").unlink()
    shutil.rmtree(tmp_path / "out" / "candidates")
    answer = crysjax("design", plan, "--out", tmp_path / "out")
    assert answer.code == 0 and "round" not in answer.out
    same(outputs(tmp_path / "out"), outputs(designed[0]))


def test_another_plan_does_not_go_on(designed, crysjax, one_line, world, write, tmp_path):
    shutil.copytree(designed[0], tmp_path / "out")
    other = write(tmp_path / "plan.yaml", world.plan(**{"acquisition.exploration": 2.0}))
    answer = crysjax("design", other, "--out", tmp_path / "out")
    message = r"out: this campaign began with acquisition\.exploration = 1\.0, the plan now says 2\.0; .*--no-resume"
    one_line(answer, message)
    same(outputs(tmp_path / "out"), outputs(designed[0]))


@pytest.mark.parametrize("damage", ["cut", "version", "ledger"])
def test_a_damaged_run_is_named(designed, crysjax, one_line, plan, damage, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(designed[0], out)
    state, book = out / "state.npz", out / "ledger.jsonl"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:1000])
        store.previous(state).write_bytes(b"")
        message = r"state\.npz: not the state of a campaign \(the file is (cut short|damaged)"
    elif damage == "version":
        np.savez(state, meta=np.frombuffer(b'{"format": 99}', np.uint8))
        message = r"state\.npz: state format 99, this version reads format 2"
    else:
        book.write_bytes(b"no row\n" + book.read_bytes())
        message = r"ledger\.jsonl: line 1 is not a row of a ledger"
    one_line(crysjax("design", plan, "--out", out), message)


def test_a_damaged_state_gives_way_to_the_round_before(designed, crysjax, plan, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(designed[0], out)
    (out / "state.npz").write_bytes((out / "state.npz").read_bytes()[:1000])
    answer = crysjax("design", plan, "--out", out)
    assert answer.code == 0, answer.err
    assert f"{out}/state.npz: damaged; going on from the state after round 2\n" in answer.err
    assert "round 3/3" in answer.out + answer.err and "round 2/3" not in answer.out + answer.err
    same(outputs(out), outputs(designed[0]))


def test_another_model_under_the_same_name_does_not_go_on(designed, crysjax, one_line, world, write, tmp_path):
    out, heads = tmp_path / "out", tmp_path / "heads.npz"
    shutil.copy(world.heads, heads)
    plan = write(tmp_path / "plan.yaml", world.plan(heads=str(heads), rounds=1, validations=2))
    assert crysjax("design", plan, "--out", out).code == 0
    with np.load(heads) as file:
        arrays = {name: file[name] for name in file.files}
    files.write_npz(heads, {name: a if name == "config" else a ^ 1 for name, a in arrays.items()})
    message = r"out: heads\.npz of the heads has changed since this campaign began; put the former file back"
    one_line(crysjax("design", plan, "--out", out), message)
    shutil.copy(world.heads, heads)
    assert crysjax("design", plan, "--out", out).code == 0


def test_beginning_again_forgets_the_former_run_at_once(designed, crysjax, plan, tmp_path, monkeypatch):
    shutil.copytree(designed[0], tmp_path / "out")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "append", stop)
    answer = crysjax("design", plan, "--out", tmp_path / "out", "--no-resume")
    assert answer.code == 130 and "no round in" in answer.err and "the same command begins again" in answer.err
    monkeypatch.undo()
    assert not (tmp_path / "out" / "state.npz").exists()
    assert ledger.read(tmp_path / "out" / "ledger.jsonl") == []


def test_where_nothing_passes_the_report_says_so(crysjax, world, write, tmp_path):
    oxygen = datasets.Entry("o", np.array([8]), np.zeros((1, 3)), 4 * np.eye(3), {})
    datasets.save(datasets.from_entries([oxygen]), tmp_path / "known.npz")
    plan = world.plan(elements=["O"], novel_to=str(tmp_path / "known.npz"))
    answer = crysjax("design", write(tmp_path / "plan.yaml", plan), "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["candidates"] == 0 and summary["stages"]["screened"]["passed"] == 0
    assert summary["stages"]["relaxed"]["entered"] == 0
    assert summary["nothing"].startswith("No candidate was validated: 48 were sampled, ")
    assert summary["unspent"] in answer.out and summary["unspent"].startswith("6 of 6 validations unspent")
    assert summary["nothing"] in answer.out and "0.0 (0 to 0) hits expected in 0 validations;" in answer.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No candidate was validated: 48 were sampled, " in page and "Validated means" not in page
    assert (tmp_path / "out" / "candidates.extxyz").read_text() == ""
    assert list((tmp_path / "out" / "candidates").iterdir()) == []


@pytest.mark.parametrize("guidance", OTHERS)
def test_every_guidance_gives_finite_candidates_within_the_budget(guided, codes, guidance):
    out = guided[0] / guidance
    assert codes[guidance] == 0
    rows = ledger.read(out / "ledger.jsonl")
    assert [row.valid for row in rows if row.stage == "sampled"] == [True] * 16
    assert 0 < len([row for row in rows if row.stage == "relaxed"]) <= 6
    frames = ase_read(out / "candidates.extxyz", ":")
    assert len(frames) > 0
    for frame in frames:
        assert np.isfinite(frame.positions).all() and frame.get_volume() > 0
        assert np.isfinite([v for v in frame.info.values() if isinstance(v, float)]).all()
    calls = json.loads((out / "summary.json").read_text())["oracle_calls"]
    assert calls["generator"]["calls"] == 16 * {"none": 1}.get(guidance, 3)  # two steps, and the sample itself

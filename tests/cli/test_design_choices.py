"""What a plan chooses by name, each swapped by one line of YAML in a campaign that runs: with known answers."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ase.io import read as ase_read

from crysjax.chemistry.element_properties import masses_amu
from crysjax.data import files
from crysjax.evaluation import ledger

ENERGY, GAP = "formation_energy_ev_per_atom", "band_gap_ev"
SMALL = {"guidance": "none", "rounds": 2, "candidates": 16, "validations": 8, "relax_steps": 3}


class Ran(NamedTuple):
    """What a campaign left."""

    rows: list[ledger.Row]
    summary: dict
    frames: list
    err: str

    def at(self, stage: str, number: int | None = None) -> dict[str, ledger.Row]:
        """Rows of the candidates that passed a stage."""
        return {r.candidate: r for r in self.rows if r.stage == stage and r.valid and number in (None, r.round)}


@pytest.fixture(scope="module")
def ran(crysjax, world, write, tmp_path_factory):
    def run(**changed) -> Ran:
        folder = tmp_path_factory.mktemp("ran")
        answer = crysjax("design", write(folder / "plan.yaml", world.plan(**SMALL | changed)), "--out", folder / "out")
        assert answer.code == 0, answer.err
        summary = json.loads((folder / "out" / "summary.json").read_text())
        frames = ase_read(folder / "out" / "candidates.extxyz", ":")
        return Ran(ledger.read(folder / "out" / "ledger.jsonl"), summary, frames, answer.err)

    return run


@pytest.fixture(scope="module")
def usual(ran) -> Ran:
    return ran()


def test_without_a_surrogate_the_heads_have_the_last_word(ran, usual):
    found = ran(surrogate="none")
    assert len(usual.at("validated", 0)) >= 4  # enough for a surrogate to have its say
    for row in found.at("scored", 1).values():
        assert row.p_hit == row.notes["p_hit_by_heads"]
    assert any(row.p_hit != row.notes["p_hit_by_heads"] for row in usual.at("scored", 1).values())
    assert found.at("scored", 0) == usual.at("scored", 0)


def test_a_deep_ensemble_learns_in_the_place_of_the_process(ran, usual):
    found = ran(surrogate="deep_ensemble", **{"surrogate.steps": 20, "surrogate.members": 3})
    assert found.at("scored", 0) == usual.at("scored", 0)
    here, there = found.at("scored", 1), usual.at("scored", 1)
    assert here.keys() == there.keys() and any(here[k].value != there[k].value for k in here)
    assert all(np.isfinite(row.value) and row.std > 0 for row in here.values())


def test_a_cautious_acquisition_is_the_bound_by_hand(ran):
    found = ran(acquisition="upper_bound", **{"acquisition.caution": 1.0, f"target.{ENERGY}.weight": 2})
    scale = scales(found)
    for name, row in found.at("selected").items():
        of = found.at("scored")[name].properties
        (gap, reach), (energy, std) = of[GAP], of[ENERGY]
        missed = max(1 - (gap - reach), (gap + reach) - 2, 0) / scale[GAP]
        assert row.value == pytest.approx(-2 * (energy + std) / scale[ENERGY] - missed, rel=1e-3)


def scales(found: Ran) -> dict[str, float]:
    from crysjax.models import registry

    predictor, _ = registry.load_predictor(found.summary["plan"]["heads"])
    return dict(zip(predictor.names, predictor.scale))


def test_a_judge_that_only_looks_says_the_energy_of_what_the_potential_left(ran, usual, world):
    found = ran(judge=str(world.potential), **{"judge.relax": False})
    assert "has no reference energies of the elements" in found.err
    assert {i: r.value for i, r in found.at("relaxed").items()} == pytest.approx(
        {i: r.value for i, r in usual.at("relaxed").items()}, abs=1e-4
    )
    spent, calls = found.summary["oracles"], len(found.at("relaxed"))
    assert {row["unit"] for name, row in spent.items() if name != found.summary["plan"]["heads"]} == {"eV/atom"}
    judged = found.summary["oracles"][str(world.potential)]
    evaluations = found.summary["oracle_calls"]["potential"]["calls"]
    assert judged["calls"] == evaluations + calls  # one file is both here: each candidate is looked at once more


def test_a_calculator_relaxes_after_the_potential(ran):
    options = {"sigma_angstrom": 2.0, "epsilon_ev": 0.1, "cutoff_angstrom": 5.0}
    found = ran(judge="lennard_jones", rounds=1, validations=4, **{"judge.options": options, "judge.steps": 30})
    lj = LennardJones(sigma=2.0, epsilon=0.1, rc=5.0)
    assert found.frames
    for frame in found.frames:
        frame.calc = lj
        assert frame.get_potential_energy() / len(frame) == pytest.approx(frame.info["potential_ev_per_atom"], abs=1e-3)
    assert found.summary["oracles"]["lennard_jones"]["calls"] > 0
    assert found.summary["oracles"]["lennard_jones"]["unit"] == "eV/atom"
    assert ", then lennard_jones" in found.summary["models"]["potential"]


def test_constraints_gates_and_measures_hold_together(ran):
    found = ran(
        formula="MgO", space_group=221, gates=["apart"], measure=["density_g_cm3", "energy_ev_per_atom"],
        density_g_cm3=[0.5, 9.0], rounds=1, validations=4,
    )  # fmt: skip
    assert found.frames and found.summary["oracles"]["density_g_cm3"]["unit"] == "g/cm³"
    rows = found.at("validated")
    for frame in found.frames:
        assert sorted(frame.numbers.tolist()) == [8, 12] * (len(frame) // 2) or set(frame.numbers) == {8, 12}
        density = 1.66053906660 * masses_amu()[frame.numbers - 1].sum() / frame.get_volume()
        notes = rows[frame.info["id"]].notes
        assert notes["density_g_cm3"] == pytest.approx(density, rel=1e-3) and 0.5 <= density <= 9
        assert notes["energy_ev_per_atom"] == pytest.approx(frame.info["potential_ev_per_atom"], abs=1e-3)
        assert notes["constraint_flag"] == ""
    reasons = {r.reason for r in found.rows if r.stage == "screened" and r.reason}
    assert not any("neutral" in why or "breaks" in why for why in reasons)


def test_the_cost_of_a_row_names_its_unit(designed, tmp_path):
    text = (designed[0] / "ledger.jsonl").read_text()
    first = json.loads(text.splitlines()[0])
    assert "cost_seconds" in first and "cost" not in first
    files.write(tmp_path / "old.jsonl", text.replace('"cost_seconds"', '"cost"'))
    assert ledger.read(tmp_path / "old.jsonl") == ledger.read(designed[0] / "ledger.jsonl")
    before = (tmp_path / "old.jsonl").read_bytes()
    assert ledger.keep_rounds(tmp_path / "old.jsonl", 99) and (tmp_path / "old.jsonl").read_bytes() == before


REFUSED = {
    "a judge unheard of": ({"judge": "chgnat"}, r"judge: 'chgnat' is neither .*or a calculator: chgnet, emt, lennard"),
    "DFT": ({"judge": "gpaw"}, r"judge: gpaw: takes minutes .*expected a potential or one of chgnet, .*crysjax judge"),
    "settings of no calculator": ({"judge.options": {"a": 1}}, r"judge\.options: no judge takes none; expected a calc"),
    "a setting unheard of": ({"judge": "emt", "judge.options": {"a": 1}}, r"judge: calculator emt: no setting 'a'; ex"),
    "a measure": ({"measure": ["densty"]}, r"measure: 'densty'; expected one of energy_ev_per_atom"),
    "novelty": ({"heads": "synthesizability"}, r"heads: .*kind 'synthesizability'; expected one of kind 'heads'"),
    "a search": ({"guidance": "sgdl"}, r"guidance: 'sgdl'; expected one of none, .*did you mean sgld"),
    "a formula": ({"formula": "MgTiO3"}, r"formula: MgTiO3 has units of 5 atoms, .*expected max_atoms of at least 5"),
    "a group": ({"formula": "MgO", "space_group": 230}, r"space_group: 230; no positions .*groups that have them: 22"),
    "a part": ({"fix": "gone.cif"}, r"gone\.cif: "),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line_before_anything_runs(one_line, crysjax, world, write, tmp_path, case):
    changed, message = REFUSED[case]
    answer = crysjax("design", write(tmp_path / "plan.yaml", world.plan(**changed)), "--out", tmp_path / "out")
    one_line(answer, message)
    assert not (tmp_path / "out").exists()


def test_keys_are_shown(crysjax):
    answer = crysjax("design", "--keys")
    assert answer.code == 0 and answer.err == ""
    assert "guidance.rate: 0.02   (a number)" in answer.out and "judge.relax: true   (true or false)" in answer.out


def test_a_state_of_an_older_version_goes_on(designed, crysjax, plan, tmp_path):
    """Its plan in the keys of that version, its ledger with the cost of a row unnamed: nothing is done again."""
    import shutil

    from crysjax.campaign import store
    from crysjax.campaign.plan import RENAMED

    out = tmp_path / "out"
    shutil.copytree(designed[0], out)
    text = (out / "ledger.jsonl").read_text().replace('"cost_seconds"', '"cost"')
    files.write(out / "ledger.jsonl", text)
    arrays, meta = store.load_state(out / "state.npz")
    old = {new: name for name, new in RENAMED.items()}
    kept = ("target", "elements", "min_atoms", "max_atoms", "rounds", "candidates", "validations", "guidance", "seed",
            "sample_steps", "relax_steps", "novel_to", "hull", "generator", "heads", "potential", *old)  # fmt: skip
    meta["plan"] = {old.get(k, k): v for k, v in meta["plan"].items() if k in kept}
    meta["ledger"] = ledger.seal(out / "ledger.jsonl")
    store.save_state(out / "state.npz", arrays, {k: v for k, v in meta.items() if k not in ("format", "spent")})
    answer = crysjax("design", plan, "--out", out)
    assert answer.code == 0, answer.err
    assert "sample" not in answer.err and (out / "ledger.jsonl").read_text() == text
    meta["plan"]["guidance"] = "langevin"
    store.save_state(out / "state.npz", arrays, meta)
    answer = crysjax("design", plan, "--out", out)
    assert answer.code == 2 and "this version does not read (guidance: 'langevin'; expected one of none" in answer.err

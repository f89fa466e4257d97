"""Every mistake in a plan is one line that names the key, the value and what was expected."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crysjax as cx
from crysjax.campaign import plan as plans
from crysjax.campaign.plan import Goal

GOOD = """
target.band_gap_ev: [1, 2.5]
target.formation_energy_ev_per_atom: minimise
elements: [O, Ti, Sr]
"""


def read(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return plans.read_plan(path)


def test_a_good_plan(tmp_path):
    plan = read(tmp_path, GOOD + "guidance.strength: 3\n")
    assert plan.target["band_gap_ev"] == Goal("window", 1.0, 2.5)
    assert plan.target["formation_energy_ev_per_atom"].kind == "minimise"
    assert plan.elements == ("O", "Ti", "Sr") and plan.numbers == (8, 22, 38)
    assert plan.settings["guidance.strength"] == 3.0 and isinstance(plan.settings["guidance.strength"], float)
    open_side = read(tmp_path, GOOD.replace("[1, 2.5]", "[null, 2.5]"))
    assert open_side.target["band_gap_ev"] == Goal("window", -math.inf, 2.5)


def test_one_mapping_is_the_same_target(tmp_path):
    nested = "target: {formation_energy_ev_per_atom: minimise, band_gap_ev: [1, 2.5]}\nelements: [O, Ti, Sr]\n"
    assert read(tmp_path, nested) == read(tmp_path, GOOD)
    as_text = read(tmp_path, GOOD + "guidance.strength: 1e-3\n")  # YAML 1.1 reads it so
    assert as_text.settings["guidance.strength"] == 1e-3


def test_settings_make_the_same_plan(tmp_path):
    plan = read(tmp_path, GOOD.replace("[1, 2.5]", "[null, 2.5]"))
    assert plans.plan_of(plans.as_settings(plan)) == plan == replace(plan)


def test_overrides_win(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD + "seed: 4\n")
    assert plans.read_plan(path, seed=7).seed == 7
    assert plans.read_plan(path, seed=None).seed == 4


BAD = {
    "seeds: 3": r"seeds: unknown key; expected one of .* \(did you mean seed\?\)",
    "rounds: three": r"rounds: 'three'; expected a whole number",
    "rounds: true": r"rounds: True; expected a whole number",
    "rounds: 2.5": r"rounds: 2\.5; expected a whole number",
    "relax_steps: 999999999999": r"relax_steps: 999999999999; expected a whole number from 1 to 1000000",
    "rounds: 0": r"rounds: 0; expected a whole number from 1 to 1000000",
    "validations: 1": r"validations: 1; expected at least one per round",
    "guidance: resampel": r"guidance: 'resampel'; expected one of none, .*did you mean resample\?",
    "max_atoms: 1": r"max_atoms: 1; expected at least min_atoms = 2",
    "seed: -1": r"seed: -1; expected a whole number from 0",
    "guidance.rate: 1e-2x\nguidance: sgld": r"guidance\.rate: '1e-2x'; expected a number",
    "target.gap_ev: low": r"target\.gap_ev: 'low'; expected \[low, high\]",
    "guidance.strength: .nan": r"guidance\.strength: nan; expected a finite number",
    "elements: [O]": r"line 5, column 1: key 'elements' is given twice",
}


@pytest.mark.parametrize("extra", BAD)
def test_a_bad_key_is_named(tmp_path, extra):
    with pytest.raises(ValueError, match=r"plan\.yaml: " + BAD[extra]) as caught:
        read(tmp_path, GOOD + extra + "\n")
    assert "\n" not in str(caught.value)


REPLACED = {
    ("[1, 2.5]", "[2.5, 1]"): r"target\.band_gap_ev: \[2\.5, 1\]; expected a window whose low side is below",
    ("[1, 2.5]", "[null, null]"): r"target\.band_gap_ev: .*bounded on one side",
    ("[1, 2.5]", "[1, wide]"): r"target\.band_gap_ev: .*two numbers",
    ("[1, 2.5]", "lowest"): r"target\.band_gap_ev: 'lowest'; expected \[low, high\], \"minimize\" or \"maximize\"",
    ("[1, 2.5]", "[null, 1.0e+39]"): r"target\.band_gap_ev: .*two numbers up to 1e\+06",
    ("[1, 2.5]", "[-5, -1]"): r"target\.band_gap_ev: .*a window that reaches 0, the least value",
    (
        "[1, 2.5]",
        "{goal: [1, 2.5], weight: 1.0e-40}",
    ): r"target\.band_gap_ev\.weight: 1e-40; expected a number from 1e-06",
    (
        "[1, 2.5]",
        "[1, 2.5]\ntarget.band_gap_ev.goal: [2, 3]",
    ): r"target\.band_gap_ev\.goal: .*the plan says \[1, 2\.5\] too",
    ("[1, 2.5]", "1.5"): r"target\.band_gap_ev: 1\.5; expected \[low, high\]",
    (
        "[O, Ti, Sr]",
        "[O, Tj, Sr]",
    ): r"elements: 'Tj'; expected a chemical element .*, or one of all, .*\(did you mean",
    ("[O, Ti, Sr]", "[O, O]"): r"elements: 'O'; expected each element once",
    ("[O, Ti, Sr]", "[]"): r"elements: \[\]; expected at least one symbol",
    ("[O, Ti, Sr]", "O"): r"elements: 'O'; expected a list of text",
    ("elements: [O, Ti, Sr]", ""): r"elements: \[\]; expected at least one symbol, one of all, earth-abundant, ",
    ("[O, Ti, Sr]", "[O, Ti"): r"line \d, column \d+: ",
}


@pytest.mark.parametrize("change", REPLACED)
def test_a_bad_value_is_named(tmp_path, change):
    with pytest.raises(ValueError, match=r"plan\.yaml: " + REPLACED[change]) as caught:
        read(tmp_path, GOOD.replace(*change))
    assert "\n" not in str(caught.value)


def test_not_a_mapping(tmp_path):
    with pytest.raises(ValueError, match="expected `key: value` lines, found list"):
        read(tmp_path, "- a\n- b\n")


def test_the_quickstart_plan_is_good():
    plan = plans.read_plan(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
    assert plan.target == {"band_gap_ev": Goal("window", 1.0, 2.0), "formation_energy_ev_per_atom": Goal("minimise")}
    assert (plan.rounds, plan.candidates, plan.validations) == (3, 72, 24)


def test_a_weight_is_a_line_of_its_own_or_part_of_the_mapping(tmp_path):
    flat = read(tmp_path, GOOD + "target.band_gap_ev.weight: 2\n")
    assert flat.target["band_gap_ev"] == Goal("window", 1.0, 2.5, 2.0)
    nested = "target: {formation_energy_ev_per_atom: minimise, band_gap_ev: {goal: [1, 2.5], weight: 2}}\n"
    assert read(tmp_path, nested + "elements: [O, Ti, Sr]\n") == flat == plans.plan_of(plans.as_settings(flat))


def test_every_choice_is_swapped_by_one_line(tmp_path, capsys):
    """Settings of the former choice are left out, and that is said."""
    before = GOOD + "guidance.rate: 0.1\nguidance: sgld\nsurrogate.kernel: rbf\nacquisition.exploration: 2\n"
    for line, gone in {
        "guidance: sgld|guidance: resample": ["guidance.rate"],
        "guidance: sgld|guidance: none": ["guidance.rate"],
        "surrogate.kernel: rbf|surrogate.kernel: rbf\nsurrogate: deep_ensemble": ["surrogate.kernel"],
        "acquisition.exploration: 2|acquisition.exploration: 2\nacquisition: upper_bound": ["acquisition.exploration"],
    }.items():
        plan = read(tmp_path, before.replace(*line.split("|")))
        assert all(key not in plan.settings for key in gone)
        said = capsys.readouterr().err
        assert [text.split()[1] for text in said.splitlines()] == gone, said


def test_keys_of_older_plans_are_renamed_and_that_is_said(tmp_path, capsys):
    old = read(tmp_path, GOOD + "guidance_strength: 3\nguidance_steps: 4\nexploration: 0.5\n")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "crysjax: guidance_strength is called guidance.strength now" and len(said) == 3
    assert old == read(tmp_path, GOOD + "guidance.strength: 3\nguidance.steps: 4\nacquisition.exploration: 0.5\n")
    with pytest.raises(ValueError, match=r"exploration: 1; expected acquisition\.exploration alone"):
        read(tmp_path, GOOD + "exploration: 1\nacquisition.exploration: 1\n")


OLD = {
    "target": {"band_gap_ev": [1.0, None], "formation_energy_ev_per_atom": "minimise"}, "elements": ["O", "Mg"],
    "min_atoms": 2, "max_atoms": 4, "rounds": 3, "candidates": 16, "validations": 6, "guidance": "none",
    "guidance_strength": 2.0, "guidance_steps": 2, "guidance_rate": 0.02, "sample_steps": 2, "relax_steps": 10,
    "exploration": 1.0, "novel_to": "", "hull": [], "generator": "g.npz", "heads": "h.npz", "potential": "p.npz",
    "seed": 0,
}  # fmt: skip


def test_what_an_older_version_kept_is_the_same_plan_now(capsys):
    now = plans.as_settings(plans.plan_of({k: v for k, v in OLD.items() if not k.startswith("guidance_")}, tell=False))
    assert plans.as_known_now(OLD) == now
    assert plans.as_known_now(now) == now
    assert capsys.readouterr().err == ""
    other = plans.as_known_now(OLD | {"guidance": "sgld", "guidance_steps": 5})
    assert other["guidance.steps"] == 5 and other["guidance.rate"] == 0.02


CHOSEN = {
    "surrogate: gaussian": r"surrogate: 'gaussian'; expected one of gp, deep_ensemble, none",
    "surrogate.kernl: rbf": r"surrogate\.kernl: unknown key; .*did you mean surrogate\.kernel\?",
    "surrogate.kernel: rbv": r"surrogate\.kernel: 'rbv'; expected one of matern52, rbf \(did you mean rbf\?\)",
    "surrogate: deep_ensemble\nsurrogate.hidden: [a]": r"surrogate\.hidden: \['a'\]; expected a list of whole numbers",
    "surrogate: deep_ensemble\nsurrogate.held_out: 1.5": r"surrogate: deep_ensemble: held_out is 1\.5",
    "surrogate.chains: 1": r"surrogate: gp: chains is 1; expected at least 2",
    "acquisition: ei": r"acquisition: 'ei'; expected one of expected_improvement, .*upper_bound",
    "acquisition.exploration: -1": r"acquisition\.exploration: -1\.0; .*acquisition: upper_bound, or lower_bound",
    "guidance.steps: 0": r"guidance\.steps: 0; expected a whole number from 1",
    "guidance.stebs: 3": r"guidance\.stebs: unknown key; .*did you mean guidance\.steps\?",
    "novelty_penalty: -1": r"novelty_penalty: -1\.0; expected a finite number from 0",
    "target.band_gap_ev.weight: 0": r"target\.band_gap_ev\.weight: 0; expected a number from 1e-06",
    "target.gap.weight: 1": r"target\.gap: 'missing'; expected \[low, high\]",
    "target.band_gap_ev.wieght: 1": r"target\.band_gap_ev\.wieght: 'unknown key'; expected goal or weight",
}


@pytest.mark.parametrize("extra", CHOSEN)
def test_a_bad_choice_is_named(tmp_path, extra):
    with pytest.raises(ValueError, match=r"plan\.yaml: " + CHOSEN[extra]) as caught:
        read(tmp_path, GOOD + extra + "\n")
    assert "\n" not in str(caught.value)


def test_windows_alone_need_a_window(tmp_path):
    text = "target.band_gap_ev: minimize\nelements: [O]\nacquisition: window_probability\n"
    with pytest.raises(ValueError, match=r"the target has no window; expected one of expected_improvement, .*upper_"):
        read(tmp_path, text)
    read(tmp_path, text.replace("minimize", "[1, 2]"))


@pytest.mark.parametrize(
    "goal", [Goal("window", 5, 1), Goal("window", math.nan, 1), Goal("best"), Goal("minimise", weight=-1)]
)
def test_a_goal_from_python_is_checked_as_one_of_yaml(goal):
    with pytest.raises(ValueError, match=r"target\.band_gap_ev"):
        plans.Plan(target={"band_gap_ev": goal}, elements=("O",))


def test_a_plan_is_frozen_and_checked_from_python_too():
    plan = plans.Plan(target={"gap": [1, 2]}, elements=["Sr", "O"], settings={"guidance.steps": 3})
    assert plan.elements == ("O", "Sr") and plan.settings["guidance.steps"] == 3 and cx.Plan is plans.Plan
    with pytest.raises(AttributeError):
        plan.rounds = 4
    with pytest.raises(ValueError, match=r"rounds: 0; expected a whole number from 1"):
        replace(plan, rounds=0)
    assert replace(plan, guidance="none").settings.keys() & {"guidance.steps"} == set()


def test_numbers_of_numpy_are_those_of_python():
    """`np.int8`: 100 candidates in 2 rounds are 200, which it does not hold."""
    given = {"target": {"band_gap_ev": {"goal": [np.float32(1), np.int64(2)], "weight": np.float32(2)}},
             "elements": np.array(["O", "Ti"]), "candidates": np.int8(100), "rounds": np.int8(2), "neutral": np.False_,
             "validations": np.int64(150), "density_g_cm3": np.array([3.0, 5.0]), "min_distance": np.float32(1.5),
             "guidance.strength": np.float32(3)}  # fmt: skip
    plain = {"target": {"band_gap_ev": {"goal": [1, 2], "weight": 2}}, "elements": ["O", "Ti"], "candidates": 100,
             "rounds": 2, "neutral": False, "validations": 150, "density_g_cm3": [3, 5], "min_distance": 1.5,
             "guidance.strength": 3}  # fmt: skip
    found, expected = plans.plan_of(given), plans.plan_of(plain)
    assert found == expected
    said, as_expected = (json.dumps(plans.as_settings(one)) for one in (replace(found, density_g_cm3=(3, 5)), expected))
    assert said == as_expected
    dotted = plans.plan_of({"target.band_gap_ev": np.array([1.0, 2.0]), "elements": ["O"]})
    assert dotted.target == {"band_gap_ev": Goal("window", 1.0, 2.0)}
    goal = Goal("window", np.float32(1), np.int64(2), np.float32(3))
    made = plans.Plan(target={"band_gap_ev": goal}, elements=("O",)).target["band_gap_ev"]
    assert made == Goal("window", 1.0, 2.0, 3.0) and not any(isinstance(one, np.generic) for one in made)
    with pytest.raises(ValueError, match=r"^neutral: 1; expected true or false$"):
        plans.plan_of(plain | {"neutral": np.int64(1)})


def test_a_key_that_is_no_text_is_named():
    with pytest.raises(ValueError, match=r"^5: unknown key; expected text$"):
        plans.plan_of({"target.band_gap_ev": [1, 2], "elements": ["O"], 5: 1})

"""Every mistake in a plan is one line that names the key, the value and what was expected."""

import math
from pathlib import Path

import pytest

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
    plan = read(tmp_path, GOOD + "guidance_strength: 3\n")
    assert plan.target["band_gap_ev"] == Goal("window", 1.0, 2.5)
    assert plan.target["formation_energy_ev_per_atom"].kind == "minimise"
    assert plan.elements == (8, 22, 38)
    assert plan.guidance_strength == 3.0 and isinstance(plan.guidance_strength, float)
    open_side = read(tmp_path, GOOD.replace("[1, 2.5]", "[null, 2.5]"))
    assert open_side.target["band_gap_ev"] == Goal("window", -math.inf, 2.5)


def test_one_mapping_is_the_same_target(tmp_path):
    nested = "target: {formation_energy_ev_per_atom: minimise, band_gap_ev: [1, 2.5]}\nelements: [O, Ti, Sr]\n"
    assert read(tmp_path, nested) == read(tmp_path, GOOD)
    assert read(tmp_path, GOOD + "guidance_rate: 1e-3\n").guidance_rate == 1e-3  # YAML 1.1 reads it as text


def test_settings_make_the_same_plan(tmp_path):
    plan = read(tmp_path, GOOD.replace("[1, 2.5]", "[null, 2.5]"))
    assert plans.plan(**plans.as_settings(plan)) == plan


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
    "guidance_rate: 1e-2x": r"guidance_rate: '1e-2x'; expected a number",
    "target.gap_ev: low": r"target\.gap_ev: 'low'; expected \[low, high\]",
    "guidance_strength: .nan": r"guidance_strength: nan; expected a finite number",
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
    ("[1, 2.5]", "1.5"): r"target\.band_gap_ev: 1\.5; expected \[low, high\]",
    ("[O, Ti, Sr]", "[O, Tj, Sr]"): r"elements: 'Tj'; expected a chemical element from H to Fm \(did you mean",
    ("[O, Ti, Sr]", "[O, O]"): r"elements: 'O'; expected each element once",
    ("[O, Ti, Sr]", "[]"): r"elements: \[\]; expected at least one symbol",
    ("[O, Ti, Sr]", "O"): r"elements: 'O'; expected a list of text",
    ("elements: [O, Ti, Sr]", ""): r"elements: missing; expected a list of text",
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

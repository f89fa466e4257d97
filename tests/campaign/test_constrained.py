"""Constraints of a plan: every refusal names what could be asked instead, and what is drawn keeps them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from crysjax.campaign import constrained
from crysjax.campaign.plan import Plan, as_settings, plan_of
from crysjax.chemistry.element_lists import LISTS, expanded
from crysjax.chemistry.elements import NUMBERS
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.models import registry
from crysjax.sampling import draws
from crysjax.sampling.space_groups import DrawStart

ASKED = {"target": {"band_gap_ev": [1, 2]}, "elements": ["O", "Mg", "Ti", "Sr"], "max_atoms": 6}

ALONE = {
    "symmetry of free species": (
        {"space_group": 221, "neutral": True}, r"space_group: expected no neutral beside it, unless a formula says"),
    "symmetry and a part": ({"crystal_system": "cubic", "fix": "a.cif"}, r"crystal_system: expected no fix beside it"),
    "symmetry twice": ({"crystal_system": "cubic", "space_group": 221}, r"expected it or space_group, not both"),
    "a system unheard of": ({"crystal_system": "cubix"}, r"'cubix'; expected one of triclinic, .*cubic"),
    "a group unheard of": ({"space_group": 231}, r"space_group: 231; expected 1 to 230, or 0"),
    "a cell of nothing": ({"fix_cell": True}, r"fix_cell: expected fix FILE beside it"),
    "distances on a slope": (
        {"min_distance": 2.0, "guidance": "sgld"}, r"min_distance: 2; .*expected guidance: none or resample"),
    "an element twice": ({"forbid": ["O"]}, r"forbid: O is in elements too; expected it in one of them"),
    "no element left": ({"elements": ["earth-abundant"], "forbid": ["all"]}, r"forbid: leaves none of the elements"),
    "required but not there": ({"require": ["Na"]}, r"require: Na is not among the elements .*expected it in elements"),
    "required beside a formula": (
        {"formula": "MgO", "require": ["Ti"]}, r"require: Ti is not in the formula; expected one of Mg, O"),
    "a formula of others": ({"formula": "NaCl"}, r"formula: Na is not among .*expected it in elements"),
    "a list unheard of": ({"elements": ["earth-abundnt"]}, r"did you mean earth-abundant\?"),
    "sexagesimal": ({"num_elements": 124}, r"num_elements: 124; expected a number .*, or \[low, high\]; YAML"),
    "a density": ({"density_g_cm3": [5, 3]}, r"density_g_cm3: \[5, 3\]; low is not below high; expected \[low, high\]"),
    "two densities": (
        {"density_g_cm3": [1, 2], "target": {"density_g_cm3": [5, 6]}}, r"density_g_cm3: .*window that meets",
    ),
    "a gate": ({"gates": ["apert"]}, r"gates: 'apert'; expected one of apart, .*did you mean apart\?"),
    "a score": ({"settings": {"gates.least_score": 2.0}}, r"gates\.least_score: 2\.0; expected a number from 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_what_cannot_hold_together_names_what_can(case):
    changed, message = ALONE[case]
    with pytest.raises(ValueError, match=message) as caught:
        Plan(**ASKED | changed)
    assert "\n" not in str(caught.value)


WITH_A_MODEL = {
    "units": ({"formula": "SrTiO3", "max_atoms": 4}, r"formula: SrTiO3 has units of 5 .*max_atoms of at least 5"),
    "a group": (
        {"formula": "SrTiO3", "space_group": 227, "max_atoms": 5},
        r"space_group: 227; no positions add up to SrTiO3 in .* atoms; groups that have them: 221, .*or change the"),
    "a system": (
        {"formula": "Mg2TiO2", "crystal_system": "cubic", "max_atoms": 5},
        r"crystal_system: cubic; no positions add up to Mg2TiO2 .*groups that have them: 1"),
    "a formula of fewer": ({"formula": "MgO", "num_elements": 3}, r"formula MgO: has 2 elements; 3 to 3 were"),
    "no charge": ({"elements": ["Mg", "Ti"], "neutral": True}, r"neutrality: no composition of . atoms meets it"),
    "a retrieval": ({"generator": "mp_20_retrieval"}, r"or one that draws from nothing, such as mp_20_wyckoff"),
    "sizes": ({"max_atoms": 60, "min_atoms": 40}, r"max_atoms: 60; the generator knows 1 to 20 atoms"),
}  # fmt: skip


@pytest.mark.parametrize("case", WITH_A_MODEL)
def test_what_a_generator_cannot_keep_names_what_it_can(case):
    changed, message = WITH_A_MODEL[case]
    plan = Plan(**ASKED | changed)
    with pytest.raises(ValueError, match=message) as caught:
        constrained.make(plan, plan.numbers)
    assert "\n" not in str(caught.value)


def test_cells_that_are_too_large_for_the_generator_are_told(capsys):
    plan = Plan(**ASKED | {"max_atoms": 30})
    sizes = constrained._sizes_of_plan(plan, {"4": 2, "20": 1, "1": 3})
    assert sizes == {4: 2, 20: 1}
    assert "max_atoms: 30; mp_20_generator was trained on at most 20 atoms and draws none" in capsys.readouterr().err
    constrained._sizes_of_plan(replace(plan, max_atoms=20), {"20": 1})
    assert capsys.readouterr().err == ""


def test_a_search_needs_a_noise_of_positions_and_lattice():
    plan = Plan(**ASKED | {"generator": "mp_20_wyckoff", "guidance": "sgld"})
    with pytest.raises(ValueError, match=r"guidance: sgld; the noise of .*expected guidance: none or resample"):
        constrained.check_search(plan, constrained.make(plan, plan.numbers))
    plan = replace(plan, generator="mp_20_generator")
    constrained.check_search(plan, constrained.make(plan, plan.numbers))


def drawn(plan: Plan, count: int = 6) -> tuple[constrained.Constrained, datasets.Dataset]:
    path, made = registry.model_path(plan.generator), constrained.make(plan, plan.numbers)
    sizes = np.sort(draws.draw_sizes(0, made.sizes, count))
    start = made.start(sizes, 3) if made.start else DrawStart(None, None, np.zeros(count, int))
    properties = np.full((count, len(registry.read_config(path, "generator")["properties"])), np.nan, np.float32)
    return made, draws.sample(
        made.generator, made.params, jax.random.key(0), draws.blank(sizes, start.numbers), properties,
        elements=plan.numbers, space_group=start.group, view=start.view,
    )  # fmt: skip


KEPT = {
    "composition": {"require": ["Ti", "Sr"], "num_elements": [2, 3], "neutral": True, "forbid": [], "max_atoms": 5},
    "orbits": {"formula": "SrTiO3", "space_group": 221, "max_atoms": 5},
    "a system of another family": {"crystal_system": "cubic", "generator": "mp_20_wyckoff", "max_atoms": 4},
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_drawn_keeps_the_constraints(case, light_compiles):
    plan = Plan(**ASKED | {"sample_steps": 2} | KEPT[case])
    made, crystals = drawn(plan)
    assert made.broken(crystals).tolist() == [""] * len(crystals)
    for entry in datasets.entries(crystals):
        assert {NUMBERS[s] for s in plan.require} <= set(entry.numbers.tolist()) <= set(plan.numbers)


def test_what_is_broken_is_named():
    plan = Plan(**ASKED | {"formula": "SrTiO3", "max_atoms": 5, "min_distance": 1.5, "crystal_system": ""})
    made = constrained.make(plan, plan.numbers)
    ideal = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    good = Entry("good", np.array([38, 22, 8, 8, 8]), ideal, 3.9 * np.eye(3), {})
    rows = [good, good._replace(numbers=np.array([38, 22, 8, 8, 12])), good._replace(lattice=2.0 * np.eye(3))]
    said = made.broken(datasets.from_entries([row._replace(id=str(k)) for k, row in enumerate(rows)]))
    assert said.tolist() == ["", "breaks the constraint formula", "breaks the constraint min_distance"]
    assert made.flag(good) == "" and made.flag(rows[2]) == "after relaxation it no longer keeps min_distance"


def test_a_plan_without_constraints_is_the_generator_itself():
    plan = Plan(**ASKED | {"generator": "mp_20_wyckoff"})  # which has no steps of a sampler
    made = constrained.make(plan, plan.numbers)
    assert made.start is None and made.broken is None and made.flag is None


def test_lists_of_elements():
    assert expanded(["earth-abundant", "O", "Sn"]) == expanded(LISTS["earth-abundant"] + ("Sn",))
    assert len(LISTS["all"]) == 100 and not set(LISTS["non-toxic"]) & {"Pb", "As", "Cd", "Hg", "Tl", "U", "Tc"}
    assert {"O", "Si", "Fe", "Bi"} <= set(LISTS["non-toxic"]) and {"O", "Si", "Cu"} <= set(LISTS["earth-abundant"])
    plan = Plan(**ASKED | {"elements": ["non-toxic", "Pb"], "forbid": ["earth-abundant"]})
    assert set(plan.numbers) == {NUMBERS[s] for s in {*LISTS["non-toxic"], "Pb"} - set(LISTS["earth-abundant"])}
    assert plan_of(as_settings(plan)) == plan


def test_of_a_list_what_models_do_not_know_is_left_out_and_said(capsys):
    plan = Plan(**ASKED | {"elements": ["earth-abundant"]})
    known = {"generator": [8, 14, 22], "heads": [8, 14, 38]}
    assert constrained.elements(plan, known) == (8, 14)
    assert "25 of the 27 elements of the plan are left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"elements: O; the heads mp_20_heads does not know it"):
        constrained.elements(replace(plan, elements=("O", "Si")), {"heads": [14]})


def test_without_elements_those_of_the_formula_may_occur():
    plan = Plan(target=ASKED["target"], formula="SrTiO3")
    assert plan.elements == ("O", "Ti", "Sr") and plan.numbers == (8, 22, 38)

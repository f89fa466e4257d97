"""What a user asks of a campaign: a checked, frozen `Plan`; flat YAML is one way to write it.

The fields of `Plan` are the schema, and so are the keyword-only signatures of what a plan chooses by name
(`campaign/choices.py`). Whatever is wrong with the input is one line that names the key, the value and what was
expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from crysjax.campaign import choices, constraint_keys, measures
from crysjax.campaign.goals import Goal
from crysjax.chemistry import elements as periodic
from crysjax.chemistry.element_lists import expanded
from crysjax.config import as_python, checked, choice, read_yaml
from crysjax.data.readers import limits
from crysjax.evaluation.gates import REASONS
from crysjax.predictors import ranges
from crysjax.terminal import say

MOST = 1_000_000
MOST_WEIGHT = 1e6  # of a goal; single precision holds its products
MOST_VALUE = 1e6  # of a side of a window, in the unit of its property
"""Of whatever a plan counts."""

RENAMED = {
    "guidance_strength": "guidance.strength", "guidance_steps": "guidance.steps", "guidance_rate": "guidance.rate",
    "exploration": "acquisition.exploration",
}  # fmt: skip
"""Keys of older plans and what they are called now."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A campaign.

    Attributes:
        target: property -> `[low, high]` (null leaves a side open), "minimize" or "maximize"; in YAML one line each,
            `target.band_gap_ev: [1, 2]`, and `target.band_gap_ev.weight: 2` where one counts more than others;
            `target.density_g_cm3` follows from the crystal itself and needs no heads that predict it; its std before
            relaxation is 1.3 g/cm³, what relaxation changed in 61 samples of mp_20_wyckoff (1.48 times the median).
        elements: elements that may occur, by symbols or by names of lists: earth-abundant, non-toxic, all
            (`chemistry/element_lists`); without any, those of the formula.
        forbid: elements that may not occur, by symbols or by names of lists.
        require: symbols of elements that every crystal contains.
        formula: composition of every crystal, in whole units, such as SrTiO3.
        num_elements: how many different elements a crystal has: a number, or `[low, high]`.
        neutral: whether charges have to add up to zero, with one common oxidation state for each element.
        space_group: number of the space group that every crystal drawn has; 0 = any.
        crystal_system: crystal system of every crystal drawn, such as cubic.
        min_distance: shortest distance of atoms in crystals as drawn, Å; 0 = none.
        fix: file of one crystal whose atoms every crystal drawn has.
        fix_cell: whether the cell of `fix` is kept too.
        density_g_cm3: window `[low, high]` of the density, g/cm³ (null leaves a side open), as one more gate; as a goal
            that guidance steers towards, `target.density_g_cm3`.
        gates: what crystals have to pass before they are predicted, and again after relaxation.
        min_atoms: fewest atoms in the cell.
        max_atoms: most atoms in the cell.
        rounds: design rounds; each learns from the ones before.
        candidates: crystals drawn per round.
        validations: number of relaxations in all rounds together, spread evenly.
        guidance: how samples are steered towards the target.
        surrogate: what learns from outcomes.
        acquisition: how candidates are scored for validation, given predictions and their uncertainties.
        novelty_penalty: added to the objective, the weighted distance from the target that guidance minimizes, for each
            multiple of the heads' limit of novelty by which a crystal exceeds it; 0 = none.
        sample_steps: steps of the generator's sampler.
        relax_steps: maximum number of steps of a relaxation.
        novel_to: a data set of known crystals; candidates with their compositions are left out.
        hull: files and folders of entries with formation energies; `target` may then name
            `energy_above_hull_ev_per_atom`.
        generator, heads, potential: name of a shipped model, or a path.
        templates: a data set of known structures, for a retrieval-based generator such as mp_20_retrieval, which
            exchanges elements in them.
        judge: whose energies count for crystals that the potential relaxed: another potential by name or file, or a
            calculator such as chgnet; empty = the potential itself.
        measure: further properties to compute of validated crystals, such as bulk_modulus_gpa (`campaign/measures`).
        seed: random seed of the whole campaign; the same one gives the same bits.
        settings: of what is chosen by name: `guidance.steps` and the like, in YAML one line each.
    """

    target: dict[str, Any]
    elements: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    formula: str = ""
    num_elements: int | tuple[int, ...] = 0
    neutral: bool = False
    space_group: int = 0
    crystal_system: str = ""
    min_distance: float = 0.0
    fix: str = ""
    fix_cell: bool = False
    density_g_cm3: tuple[float | None, ...] = ()
    gates: tuple[str, ...] = REASONS
    min_atoms: int = 2
    max_atoms: int = 12
    rounds: int = 3
    candidates: int = 128
    validations: int = 24
    guidance: str = "resample"
    surrogate: str = "gp"
    acquisition: str = "expected_improvement"
    novelty_penalty: float = 0.0
    sample_steps: int = 20
    relax_steps: int = 100
    novel_to: str = ""
    hull: tuple[str, ...] = ()
    generator: str = "mp_20_generator"
    templates: str = ""
    heads: str = "mp_20_heads"
    potential: str = "student"
    judge: str = ""
    measure: tuple[str, ...] = ()
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {one.name: as_python(getattr(self, one.name)) for one in fields(self)}
        for name, value in given.items():
            object.__setattr__(self, name, value)
        found = {k: tuple(v) if isinstance(v, list) else v for k, v in checked(Plan, given).items()}
        _check_numbers(self)
        found["target"] = _goals(self.target)
        found |= constraint_keys.unified(found)
        names = {key: found[key] for key in (*choices.CHOICES, *choices.SECTIONS)}
        found["settings"], _ = choices.filled(names, self.settings)
        for name, value in found.items():
            object.__setattr__(self, name, value)
        for key in names:
            self.made(key)
        constraint_keys.check(self)
        for name in self.measure:
            _require(name in measures.NAMES, "measure", name, choice(name, measures.NAMES))
        if self.acquisition == "window_probability" and all(g.kind != "window" for g in found["target"].values()):
            others = ", ".join(name for name in choices.CHOICES["acquisition"] if name != self.acquisition)
            raise ValueError(f"acquisition: {self.acquisition}; the target has no window; expected one of {others}")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Atomic numbers of the elements that may occur."""
        left = set(expanded(self.elements)) - set(expanded(self.forbid))
        return tuple(sorted(periodic.NUMBERS[symbol] for symbol in left))

    def made(self, key: str) -> Any:
        """What a plan chooses by this name, made of its settings."""
        given = {"surrogate": (self.validations,), "gates": (self.gates,), "judge": (self.judge,)}.get(key, ())
        return choices.made(key, getattr(self, key), self.settings, *given)


def _check_numbers(plan: Plan) -> None:
    counts = ("min_atoms", "rounds", "candidates", "validations", "sample_steps", "relax_steps")
    for key in counts:
        value = getattr(plan, key)
        _require(1 <= value <= MOST, key, value, f"a whole number from 1 to {MOST}")
    largest, asked = plan.max_atoms, plan.validations
    _require(largest >= plan.min_atoms, "max_atoms", largest, f"at least min_atoms = {plan.min_atoms}")
    _require(largest <= 64, "max_atoms", largest, "at most 64")
    _require(asked >= plan.rounds, "validations", asked, f"at least one per round (rounds = {plan.rounds})")
    _require(plan.candidates * plan.rounds >= asked, "validations", asked, "no more than candidates * rounds")
    _require(plan.novelty_penalty >= 0, "novelty_penalty", plan.novelty_penalty, "a finite number from 0 on")
    _require(0 <= plan.seed < 2**32, "seed", plan.seed, "a whole number from 0 to 4294967295")


def _require(holds: bool, key: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{key}: {limits.shown(value)}; expected {expected}")


def _goals(target: Mapping[str, Any]) -> dict[str, Goal]:
    _require(bool(target), "target", dict(target), "at least one property with its goal")
    plain = {name: Goal(*as_python(tuple(one))) if isinstance(one, Goal) else one for name, one in target.items()}
    return {name: _goal(name, value) for name, value in plain.items()}


def _goal(name: str, value: Any) -> Goal:
    key, weight = f"target.{name}", 1.0
    if isinstance(value, Goal):
        value = {"goal": [value.low, value.high] if value.kind == "window" else value.kind, "weight": value.weight}
    if isinstance(value, dict):
        strange = [inner for inner in value if inner not in ("goal", "weight")]
        _require(not strange, f"{key}.{strange[0] if strange else ''}", "unknown key", "goal or weight")
        weight = value.get("weight", 1.0)
        _require("goal" in value, key, "missing", '[low, high], "minimize" or "maximize"')
        bounded = _number(weight) and 1 / MOST_WEIGHT <= weight <= MOST_WEIGHT
        _require(bounded, f"{key}.weight", weight, f"a number from {1 / MOST_WEIGHT:g} to {MOST_WEIGHT:g}")
        value = value["goal"]
    goal, least = _of_value(key, value), ranges.least(name)
    _require(goal.high >= least, key, value, f"a window that reaches {least:g}, the least value there is, or more")
    return goal._replace(weight=float(weight))


def _of_value(key: str, value: Any) -> Goal:
    expected = '[low, high], "minimize" or "maximize"'
    if isinstance(value, str):
        kind = {"minimize": "minimise", "maximize": "maximise"}.get(value, value)
        _require(kind in ("minimise", "maximise"), key, value, expected)
        return Goal(kind)
    _require(isinstance(value, list | tuple) and len(value) == 2, key, value, expected)
    low, high = (-math.inf if value[0] is None else value[0]), (math.inf if value[1] is None else value[1])
    for side, open_side in ((low, -math.inf), (high, math.inf)):
        told = _number(side) and abs(side) <= MOST_VALUE
        _require(told or side == open_side, key, value, f"two numbers up to {MOST_VALUE:g} (null leaves a side open)")
    _require(low < high, key, value, "a window whose low side is below its high side")
    _require(low > -math.inf or high < math.inf, key, value, "a window that is bounded on one side at least")
    return Goal("window", float(low), float(high))


def _number(value: Any) -> bool:
    """Whether it is a finite number; `math.isfinite` fails on a whole one of 400 digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def read_plan(path: str | Path, **overrides: Any) -> Plan:
    """The plan in a YAML file; `overrides` that are not None win."""
    settings = read_yaml(path) | {k: v for k, v in overrides.items() if v is not None}
    try:
        return plan_of(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def plan_of(settings: Mapping[str, Any], tell: bool = True) -> Plan:
    """The plan of settings as YAML has them: `target.NAME` and `guidance.KEY` one by one, or `target` as a mapping.

    With `tell` it is said on standard error which keys have another name now, and which are not used.
    """
    plain, target, chosen = {}, {}, {}
    for old, value in settings.items():
        if not isinstance(old, str):
            raise ValueError(f"{limits.shown(old)}: unknown key; expected text")
        key = RENAMED.get(old, old)
        _require(key == old or key not in settings, old, value, f"{key} alone, which is its name now")
        if key != old and tell:
            say(f"crysjax: {old} is called {key} now", err=True)
        section, dot, inner = key.partition(".")
        if dot and section == "target":
            target[inner] = value
        elif dot and choices.factories(section):
            chosen[key] = value
        else:
            plain[key] = value
    if target and isinstance(plain.get("target", {}), dict):
        plain["target"] = _joined(plain.get("target", {}), target)
    plan = Plan(**checked(Plan, plain | ({"settings": chosen} if chosen else {}), hidden="settings"))
    if tell:
        for key in sorted(chosen.keys() - plan.settings.keys()):
            section = key.partition(".")[0]
            say(f"crysjax: {key} is not used by {section}: {getattr(plan, section)}", err=True)
    return plan


def _joined(target: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Goals, with what `target.NAME` and `target.NAME.weight` say of them."""
    joined = dict(target)
    for key, value in flat.items():
        name, _, inner = key.partition(".")
        before = joined.get(name, {})
        said = before if isinstance(before, dict) else {"goal": before}
        more = value if isinstance(value, dict) and not inner else {inner or "goal": value}
        twice = sorted(said.keys() & more.keys())
        _require(
            not twice, f"target.{key}", value, f"one value; the plan says {said.get(twice[0]) if twice else ''} too"
        )
        joined[name] = said | more
    return joined


def as_settings(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values, for state and report; `plan_of` makes it again."""
    found = {one.name: getattr(plan, one.name) for one in fields(plan) if one.name != "settings"}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in plan.settings.items()}
    return found | {"target": {name: _as_value(goal) for name, goal in plan.target.items()}} | settings


def _as_value(goal: Goal) -> Any:
    window = [None if math.isinf(side) else side for side in (goal.low, goal.high)]
    value = window if goal.kind == "window" else goal.kind
    return value if goal.weight == 1 else {"goal": value, "weight": goal.weight}


def as_known_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an older version kept, in today's names and with today's defaults for what it did not know."""
    return as_settings(plan_of(settings, tell=False))

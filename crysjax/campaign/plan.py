"""What a user asks of a campaign: flat YAML in, a checked plan out.

The keyword-only signature of `plan` is the schema. Whatever is wrong with the input is one line that names the key,
the value and what was expected.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crysjax.chemistry import elements as periodic
from crysjax.config import checked, choice, read_yaml
from crysjax.data.readers import limits

GUIDANCE = ("none", "resample", "gradient", "sgld", "psgld")


MOST = 1_000_000
"""Of whatever a plan counts."""


class Goal(NamedTuple):
    """What one property should be: inside a window (either side may be open), or as low or as high as possible."""

    kind: str  # "window", "minimise" or "maximise": the spelling of states and summaries; plans may use either
    low: float = -math.inf
    high: float = math.inf


class Plan(NamedTuple):
    """A checked campaign; see `plan` for the meaning of the fields."""

    target: dict[str, Goal]
    elements: tuple[int, ...]
    min_atoms: int
    max_atoms: int
    rounds: int
    candidates: int
    validations: int
    guidance: str
    guidance_strength: float
    guidance_steps: int
    guidance_rate: float
    sample_steps: int
    relax_steps: int
    exploration: float
    novel_to: str
    hull: tuple[str, ...]
    generator: str
    heads: str
    potential: str
    seed: int


def plan(
    *,
    target: dict,
    elements: list[str],
    min_atoms: int = 2,
    max_atoms: int = 12,
    rounds: int = 3,
    candidates: int = 128,
    validations: int = 24,
    guidance: str = "resample",
    guidance_strength: float = 2.0,
    guidance_steps: int = 8,
    guidance_rate: float = 0.02,
    sample_steps: int = 20,
    relax_steps: int = 100,
    exploration: float = 1.0,
    novel_to: str = "",
    hull: list[str] = (),
    generator: str = "mp_20_generator",
    heads: str = "mp_20_heads",
    potential: str = "student",
    seed: int = 0,
) -> Plan:
    """A campaign.

    Args:
        target: property -> `[low, high]` (null leaves a side open), "minimize" or "maximize"; in YAML one line each,
            `target.band_gap_ev: [1, 2]`.
        elements: symbols that may occur.
        min_atoms, max_atoms: atoms in the cell.
        rounds: design rounds; each learns from the ones before.
        candidates: crystals drawn a round.
        validations: relaxations in all rounds together, spread evenly.
        guidance: how samples are steered towards the target: one of `GUIDANCE`.
        guidance_strength: inverse temperature of the steering; the sampled law is p(x) exp(-strength * objective).
        guidance_steps: pool a drawn crystal is resampled from, or steps of the search. A pool of 4 has an effective
            number of 2.3 and goes 64 % of the way to the tilt, one of 8 has 3.7 and goes 79 % (measured on the
            quickstart, `experiments/quickstart/particles.py`); each costs a sample of the generator.
        guidance_rate: step size of the search.
        sample_steps: steps of the generator's sampler.
        relax_steps: most steps of a relaxation.
        exploration: standard deviations of optimism in the choice of what to validate.
        novel_to: a data set whose compositions are left out.
        hull: files and folders of entries with formation energies; `target` may then name
            `energy_above_hull_ev_per_atom`.
        generator, heads, potential: name of a shipped model, or a path.
        seed: of everything random.
    """
    counts = dict(
        min_atoms=min_atoms, rounds=rounds, candidates=candidates, validations=validations,
        guidance_steps=guidance_steps, sample_steps=sample_steps, relax_steps=relax_steps,
    )  # fmt: skip
    for key, value in counts.items():
        _require(1 <= value <= MOST, key, value, f"a whole number from 1 to {MOST}")
    _require(max_atoms >= min_atoms, "max_atoms", max_atoms, f"at least min_atoms = {min_atoms}")
    _require(max_atoms <= 64, "max_atoms", max_atoms, "at most 64")
    _require(validations >= rounds, "validations", validations, f"at least one per round (rounds = {rounds})")
    _require(candidates * rounds >= validations, "validations", validations, "no more than candidates * rounds")
    _require(guidance in GUIDANCE, "guidance", guidance, choice(guidance, GUIDANCE))
    _require(0 <= guidance_strength < math.inf, "guidance_strength", guidance_strength, "a finite number from 0 on")
    _require(0 < guidance_rate < math.inf, "guidance_rate", guidance_rate, "a finite number above 0")
    _require(0 <= exploration < math.inf, "exploration", exploration, "a finite number from 0 on")
    _require(0 <= seed < 2**32, "seed", seed, "a whole number from 0 to 4294967295")
    _require(bool(target), "target", target, "at least one property with its goal")
    goals = {name: _goal(name, value) for name, value in target.items()}
    hull = tuple(hull)
    given = dict(locals())
    return Plan(**{name: given[name] for name in Plan._fields} | {"target": goals, "elements": _elements(elements)})


def _require(holds: bool, key: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{key}: {limits.shown(value)}; expected {expected}")


def _elements(symbols: list[str]) -> tuple[int, ...]:
    _require(bool(symbols), "elements", symbols, "at least one symbol")
    for symbol in symbols:
        near = difflib.get_close_matches(symbol, periodic.SYMBOLS, 1, 0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        _require(symbol in periodic.NUMBERS, "elements", symbol, f"a chemical element from H to Fm{hint}")
        _require(symbols.count(symbol) == 1, "elements", symbol, "each element once")
    return tuple(sorted(periodic.NUMBERS[symbol] for symbol in symbols))


def _goal(name: str, value: Any) -> Goal:
    key, expected = f"target.{name}", '[low, high], "minimize" or "maximize"'
    if isinstance(value, str):
        kind = {"minimize": "minimise", "maximize": "maximise"}.get(value, value)
        _require(kind in ("minimise", "maximise"), key, value, expected)
        return Goal(kind)
    _require(isinstance(value, list) and len(value) == 2, key, value, expected)
    for side in value:
        number = isinstance(side, int | float) and not isinstance(side, bool) and _finite(side)
        _require(side is None or number, key, value, "two numbers (null leaves a side open)")
    low, high = (-math.inf if value[0] is None else value[0]), (math.inf if value[1] is None else value[1])
    _require(low < high, key, value, "a window whose low side is below its high side")
    _require(low > -math.inf or high < math.inf, key, value, "a window that is bounded on one side at least")
    return Goal("window", float(low), float(high))


def _finite(value: int | float) -> bool:
    return abs(value) <= sys.float_info.max  # `math.isfinite` fails on a whole number of 400 digits


def read_plan(path: str | Path, **overrides: Any) -> Plan:
    """The plan in a YAML file; `overrides` that are not None win."""
    settings = read_yaml(path) | {k: v for k, v in overrides.items() if v is not None}
    try:
        return plan_of(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def plan_of(settings: Mapping[str, Any]) -> Plan:
    """The plan of settings as YAML has them: `target.NAME` one by one, or `target` as a mapping."""
    flat = {k.removeprefix("target."): v for k, v in settings.items() if k.startswith("target.")}
    settings = {k: v for k, v in settings.items() if not k.startswith("target.")}
    if flat and isinstance(settings.get("target", {}), dict):
        settings["target"] = settings.get("target", {}) | flat
    return plan(**checked(plan, settings))


def as_settings(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values, for state and report."""
    goals = {
        name: [None if math.isinf(side) else side for side in goal[1:]] if goal.kind == "window" else goal.kind
        for name, goal in plan.target.items()
    }
    symbols = [periodic.SYMBOLS[z - 1] for z in plan.elements]
    return plan._asdict() | {"target": goals, "elements": symbols, "hull": list(plan.hull)}

"""Keys of a plan that say what every crystal has to be, checked one by one; `campaign.constrained` keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from crysjax.campaign.choices import nearest
from crysjax.chemistry import elements as periodic
from crysjax.chemistry.element_lists import LISTS, expanded
from crysjax.data.readers import limits
from crysjax.evaluation.metrics.symmetry import CRYSTAL_SYSTEMS
from crysjax.sampling import options


def unified(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of these keys in one spelling: symbols in the order of the periodic table, lists of elements first."""
    formula = options.formula_counts(given["formula"], None) if given["formula"] else {}
    of_formula = tuple(periodic.SYMBOLS[z - 1] for z in formula)
    found = {
        "elements": _symbols("elements", given["elements"] or of_formula, lists=True),
        "forbid": _symbols("forbid", given["forbid"], lists=True),
        "require": _symbols("require", given["require"], lists=False),
    }
    if not found["elements"]:
        raise ValueError(f"elements: []; expected at least one symbol, one of {', '.join(LISTS)}, or a formula")
    _check_together(found, of_formula)
    return found | {"num_elements": _number(given["num_elements"]), "density_g_cm3": _window(given["density_g_cm3"])}


def _symbols(key: str, symbols: Sequence[str], *, lists: bool) -> tuple[str, ...]:
    for symbol in symbols:
        known = (*periodic.SYMBOLS, *(LISTS if lists else ()))
        more = f", or one of {', '.join(LISTS)}" if lists else ""
        if symbol not in known:
            said = f"a chemical element from H to Fm{more}{nearest(symbol, known)}"
            raise ValueError(f"{key}: {limits.shown(symbol)}; expected {said}")
        if list(symbols).count(symbol) > 1:
            raise ValueError(f"{key}: {limits.shown(symbol)}; expected each element once")
    return tuple(sorted(symbols, key=lambda s: (periodic.NUMBERS.get(s, 0), s)))


def _check_together(found: Mapping[str, tuple[str, ...]], of_formula: tuple[str, ...]) -> None:
    left = [s for s in expanded(found["elements"]) if s not in expanded(found["forbid"])]
    for symbol in found["forbid"]:
        if symbol in found["elements"] or symbol in of_formula:
            where = "the formula" if symbol in of_formula else "elements"
            raise ValueError(f"forbid: {symbol} is in {where} too; expected it in one of them")
    for key, symbols in {"require": found["require"], "formula": of_formula}.items():
        for symbol in symbols:
            if symbol not in left:
                raise ValueError(f"{key}: {symbol} is not among the elements that may occur; expected it in elements")
    for symbol in found["require"]:
        if of_formula and symbol not in of_formula:
            raise ValueError(f"require: {symbol} is not in the formula; expected one of {', '.join(of_formula)}")
    if not left:
        raise ValueError("forbid: leaves none of the elements; expected fewer, or more elements")


def _number(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    numbers = isinstance(low, int) and isinstance(high, int)
    if not numbers or not (1 <= low <= high <= 20 or value == 0):
        shown = list(value) if isinstance(value, tuple) else value
        hint = "; YAML reads 2:4 as 124" if value == 124 else ""
        raise ValueError(f"num_elements: {shown}; expected a number from 1 to 20, or [low, high]{hint}")
    return value


def _window(value: tuple[float | None, ...]) -> tuple[float | None, ...]:
    if not value:
        return value
    numbers = [side for side in value if side is not None]
    if len(value) != 2 or not numbers or numbers != sorted(set(numbers)) or numbers[0] < 0:
        raise ValueError(f"density_g_cm3: {list(value)}; expected [low, high] in g/cm³; null leaves a side open")
    return value


def check(plan: Any) -> None:
    """An error for constraints that cannot hold together, by themselves; what could be asked instead is named."""
    with as_keys():
        options.check(options_of(plan, plan.space_group or (1 if plan.crystal_system else 0)))
    _check_group(plan)
    system, known = plan.crystal_system, ", ".join(CRYSTAL_SYSTEMS)
    if system and system not in CRYSTAL_SYSTEMS:
        raise ValueError(f"crystal_system: {system!r}; expected one of {known}")
    if system and plan.space_group:
        raise ValueError(f"crystal_system: {system}; expected it or space_group, not both")
    if not 0 <= plan.space_group <= 230:
        raise ValueError(f"space_group: {plan.space_group}; expected 1 to 230, or 0 for any")
    if not 0 <= plan.min_distance < 10:
        raise ValueError(f"min_distance: {plan.min_distance:g}; expected 0 to 10 Å")
    if plan.min_distance and plan.made("guidance").searches:
        raise ValueError(
            f"min_distance: {plan.min_distance:g}; the slope that guidance: {plan.guidance} follows ends where atoms "
            "are pushed apart; expected guidance: none or resample beside it, or the gate apart in its place"
        )


def _check_group(plan: Any) -> None:
    """An error for what a campaign cannot keep together with a space group; `crysjax sample` draws again instead."""
    if not (plan.space_group or plan.crystal_system):
        return
    of_composition = () if plan.formula else ("num_elements", "neutral")
    if wrong := [key for key in (*of_composition, "min_distance") if getattr(plan, key)]:
        more = ", unless a formula says the composition" if wrong[0] in of_composition else ""
        key = "space_group" if plan.space_group else "crystal_system"
        raise ValueError(f"{key}: expected no {', '.join(wrong)} beside it{more}")


def options_of(plan: Any, group: int) -> options.Options:
    """What a plan asks for, as `crysjax sample` takes it; `group` is the space group."""

    def joined(symbols: Sequence[str]) -> str:
        return ",".join(symbols)

    number = plan.num_elements
    text = ":".join(map(str, number)) if isinstance(number, tuple) else str(number or "")
    return options.Options(
        formula=plan.formula, forbid="", num_elements=text, neutral=plan.neutral, fix=plan.fix, fix_cell=plan.fix_cell,
        min_distance=plan.min_distance, space_group=group, require=joined(plan.require),
    )  # fmt: skip


@contextmanager
def as_keys() -> Iterator[None]:
    """Errors name keys of a plan where `crysjax sample` names its options."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"--([a-z][a-z-]+)", lambda m: m[1].replace("-", "_"), str(error))) from None

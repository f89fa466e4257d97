"""Keys of a plan that say what every crystal has to be, as in `crysjax sample`; `campaign.constrained` keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from crysjax.campaign.density_target import DENSITY
from crysjax.chemistry import elements as periodic
from crysjax.chemistry.element_lists import LISTS
from crysjax.sampling import options
from crysjax.sampling.options import Options, as_keys


def unified(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of these keys in one spelling; without elements, those of the formula."""
    with as_keys():
        found = options.unified(Options(**{key: given[key] for key in Options._fields}))
        numbers = sorted(options.formula_counts(found.formula, None))
    elements = found.elements or tuple(periodic.SYMBOLS[z - 1] for z in numbers)
    if not elements:
        raise ValueError(f"elements: []; expected at least one symbol, one of {', '.join(LISTS)}, or a formula")
    return found._asdict() | {"elements": elements}


def options_of(plan: Any) -> Options:
    """What samplers keep for a plan; its window of density is one of the gates."""
    return Options(**{key: getattr(plan, key) for key in Options._fields if key != "density_g_cm3"})


def check(plan: Any) -> None:
    """An error for what a campaign cannot keep together; what could be asked instead is named."""
    _check_group(plan)
    _check_density(plan)
    if plan.min_distance and plan.made("guidance").searches:
        raise ValueError(
            f"min_distance: {plan.min_distance:g}; the slope that guidance: {plan.guidance} follows ends where atoms "
            "are pushed apart; expected guidance: none or resample beside it, or the gate apart in its place"
        )


def _check_density(plan: Any) -> None:
    """A window that is asked for has to meet the one that is let through."""
    low, high = plan.density_g_cm3 or (None, None)
    goal = plan.target.get(DENSITY)
    if goal is None or goal.kind != "window":
        return
    if max(low or 0.0, goal.low) >= min(math.inf if high is None else high, goal.high):
        raise ValueError(f"density_g_cm3: {list(plan.density_g_cm3)}; expected a window that meets target.{DENSITY}")


def _check_group(plan: Any) -> None:
    """An error for what a campaign cannot keep together with a space group; `crysjax sample` draws again instead."""
    if not (plan.space_group or plan.crystal_system):
        return
    of_composition = () if plan.formula else ("num_elements", "neutral")
    if wrong := [key for key in (*of_composition, "min_distance") if getattr(plan, key)]:
        more = ", unless a formula says the composition" if wrong[0] in of_composition else ""
        key = "space_group" if plan.space_group else "crystal_system"
        raise ValueError(f"{key}: expected no {', '.join(wrong)} beside it{more}")

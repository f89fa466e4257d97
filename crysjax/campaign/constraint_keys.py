"""Keys of a plan that say what every crystal has to be, checked one by one; `campaign.constrained` keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crysjax.campaign.choices import nearest
from crysjax.chemistry import elements as periodic
from crysjax.chemistry.element_lists import LISTS, expanded
from crysjax.data.readers import limits
from crysjax.sampling import options


def constraint_keys(given: Mapping[str, Any]) -> dict[str, Any]:
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

"""What every crystal has to be, as users say it: options of `crysjax sample`, arguments of `cx.sample`, keys of a plan.

One type and one check for all of them. Messages name options, such as --num-elements; `as_keys` makes keys of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from crysjax.chemistry import elements as periodic
from crysjax.chemistry.element_lists import LISTS, expanded
from crysjax.config import as_python, fits, typed
from crysjax.data.readers import limits

Symbols = str | Sequence[str]  # "Li,Fe" or ["Li", "Fe"]
MOST_ELEMENTS, MOST_ANGSTROM = 20, 10.0
_PLAIN = {"formula": str, "neutral": bool, "fix": str, "fix_cell": bool, "min_distance": float, "space_group": int,
          "crystal_system": str}  # fmt: skip


class Options(NamedTuple):
    """The defaults ask for nothing. A range is text, `LOW:HIGH`, or a pair."""

    formula: str = ""
    elements: Symbols = ()  # symbols and names of lists (`chemistry/element_lists`)
    forbid: Symbols = ()  # the same
    num_elements: int | str | tuple[int, ...] = 0
    neutral: bool = False
    fix: str = ""
    fix_cell: bool = False
    min_distance: float = 0.0
    space_group: int = 0
    require: Symbols = ()
    crystal_system: str = ""
    density_g_cm3: str | tuple[float | None, ...] = ()

    def asked(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{k.replace('_', '-')}" for k, v in self._asdict().items() if v]


def unified(asked: Options) -> Options:
    """The options in one spelling, each checked alone and beside the others, whatever the model.

    Symbols in the order of the periodic table, ranges as pairs.

    Raises:
        ValueError: one line with the option, its value and what was expected.
    """
    asked = Options(*map(as_python, asked))
    plain = {key: typed(f"--{key.replace('_', '-')}", getattr(asked, key), hint) for key, hint in _PLAIN.items()}
    found = asked._replace(**plain)._replace(
        elements=_symbols("--elements", asked.elements, LISTS), forbid=_symbols("--forbid", asked.forbid, LISTS),
        require=_symbols("--require", asked.require, {}), num_elements=_count(asked.num_elements),
        density_g_cm3=_window(asked.density_g_cm3),
    )  # fmt: skip
    _check_values(found)
    _check_elements(found)
    if found.space_group or found.crystal_system:
        _check_beside_group(found)
    return found


def beside_like(asked: Options) -> None:
    """An error for what would contradict `--like`."""
    if others := [name for name in asked.asked() if name != "--min-distance"]:
        raise ValueError(f"--like: gives the composition; expected no {', '.join(others)} beside it")


def atomic_number(option: str, symbol: str, known: Sequence[int] | None) -> int:
    """The number of an element that the model has to know (`None`: need not)."""
    number = periodic.NUMBERS.get(symbol)
    if number is None:
        raise ValueError(f"{option}: {limits.shown(symbol)}; expected a chemical element from H to Fm")
    if known is not None and number not in known:
        raise ValueError(f"{option}: {symbol}; the model was not trained on it")
    return number


def formula_counts(text: str, known: Sequence[int] | None) -> dict[int, int]:
    """Atomic number -> how many, of a formula such as LiFePO4; elements have to be among those that are known."""
    if not isinstance(text, str) or not re.fullmatch(r"([A-Z][a-z]?[0-9]*)*", text):
        raise ValueError(f"--formula: {limits.shown(text)}; expected symbols and whole numbers, such as LiFePO4")
    counts: dict[int, int] = {}
    for symbol, count in re.findall(r"([A-Z][a-z]?)([0-9]*)", text):
        number = atomic_number("--formula", symbol, known)
        many = len(count) > limits.DIGITS  # Python reads no number of 5,000 digits
        counts[number] = counts.get(number, 0) + (limits.SITES + 1 if many else int(count or 1))
    if sum(counts.values()) > limits.SITES:
        raise ValueError(f"--formula: {limits.shown(text)}; expected at most {limits.SITES} atoms in a unit")
    if 0 in counts.values():
        raise ValueError(f"--formula: {text}; expected numbers from 1")
    return counts


@contextmanager
def as_keys() -> Iterator[None]:
    """Errors name keys of a plan, or arguments of a function, where `crysjax sample` names its options."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"--([a-z][a-z0-9-]+)", lambda m: m[1].replace("-", "_"), str(error))) from None


def _symbols(option: str, given: Symbols, lists: Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(given, str | list | tuple | set | frozenset):
        raise ValueError(f"{option}: {limits.shown(given)}; expected symbols such as Li,Fe, or a list of them")
    symbols = [part.strip() for part in given.split(",")] if isinstance(given, str) and given else list(given)
    known = (*periodic.SYMBOLS, *lists)
    for symbol in symbols:
        if symbol not in known:
            near = difflib.get_close_matches(str(symbol)[:100], known, 1, 0.5)
            more = f", or one of {', '.join(lists)}" * bool(lists) + (f" (did you mean {near[0]}?)" if near else "")
            raise ValueError(f"{option}: {limits.shown(symbol)}; expected a chemical element from H to Fm{more}")
        if symbols.count(symbol) > 1:
            raise ValueError(f"{option}: {limits.shown(symbol)}; expected each element once")
    return tuple(sorted(symbols, key=lambda s: (periodic.NUMBERS.get(s, 0), s)))


def _ends(text: str, kind: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """`LOW:HIGH`, or one number as both; an empty side is open (None). None for any other text."""
    low, colon, high = text.partition(":")
    try:
        return tuple(kind(side) if side.strip() else None for side in (low, high if colon else low))
    except ValueError:
        return None


def _count(given: int | str | Sequence[int]) -> int | tuple[int, ...]:
    value = _ends(given, int) if isinstance(given, str) and given else given or 0
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    whole = fits(low, int) and fits(high, int)
    if not whole or not (1 <= low <= high <= MOST_ELEMENTS or value == 0):
        shape = "LOW:HIGH" if isinstance(given, str) else "[low, high]"
        hint = "; YAML reads 2:4 as 124" if value == 124 else ""
        shown = limits.shown(list(given) if isinstance(given, tuple) else given)
        raise ValueError(f"--num-elements: {shown}; expected a number from 1 to {MOST_ELEMENTS}, or {shape}{hint}")
    return tuple(value) if isinstance(value, list) else value


def _window(given: str | Sequence[float | None]) -> tuple[float | None, ...]:
    if isinstance(given, str | list | tuple) and not given:
        return ()
    value = tuple(given) if isinstance(given, list | tuple) else _ends(given, float) if isinstance(given, str) else None
    sides = [side for side in value or () if side is not None]
    numbers = all(fits(side, float) for side in sides)
    ordered = numbers and sides == sorted(set(sides)) and all(side >= 0 for side in sides)
    if value is None or len(value) != 2 or not sides or not ordered or value[1] == 0:
        shape = "LOW:HIGH in g/cm³; an empty side is open"
        if not isinstance(given, str):
            shape = "[low, high] in g/cm³; null leaves a side open"
        shown = limits.shown(list(given) if isinstance(given, tuple) else given)
        above = "low is not below high; " if numbers and len(sides) == 2 and sides[0] >= sides[1] else ""
        raise ValueError(f"--density-g-cm3: {shown}; {above}expected {shape}")
    return value


def _check_values(asked: Options) -> None:
    from crysjax.evaluation.metrics.symmetry import CRYSTAL_SYSTEMS

    if asked.fix_cell and not asked.fix:
        raise ValueError("--fix-cell: expected --fix FILE beside it")
    if asked.crystal_system and asked.crystal_system not in CRYSTAL_SYSTEMS:
        known = ", ".join(CRYSTAL_SYSTEMS)
        raise ValueError(f"--crystal-system: {limits.shown(asked.crystal_system)}; expected one of {known}")
    if asked.crystal_system and asked.space_group:
        raise ValueError(f"--crystal-system: {asked.crystal_system}; expected it or --space-group, not both")
    if not 0 <= asked.space_group <= 230:
        raise ValueError(f"--space-group: {asked.space_group}; expected 1 to 230, or 0 for any")
    if not 0 <= asked.min_distance < MOST_ANGSTROM:
        raise ValueError(f"--min-distance: {asked.min_distance:g}; expected 0 to {MOST_ANGSTROM:g} Å")


def _check_elements(asked: Options) -> None:
    """An error where formula, elements, forbidden and required ones contradict one another."""
    formula = [periodic.SYMBOLS[z - 1] for z in formula_counts(asked.formula, None)]
    gone = expanded(asked.forbid)
    for symbol in asked.forbid:
        if symbol in asked.elements or symbol in formula:
            where = "the formula" if symbol in formula else "--elements"
            raise ValueError(f"--forbid: {symbol} is in {where} too; expected it in one of them")
    left = [s for s in expanded(asked.elements or formula or LISTS["all"]) if s not in gone]
    for option, symbols in {"--require": () if formula else asked.require, "--formula": formula}.items():
        for symbol in symbols:
            if symbol not in left:
                absent = asked.elements and symbol not in expanded(asked.elements)
                instead = " and ".join(["it in --elements"] * bool(absent) + ["fewer in --forbid"] * (symbol in gone))
                raise ValueError(f"{option}: {symbol} is not among the elements that may occur; expected {instead}")
    for symbol in asked.require:
        if formula and symbol not in formula:
            raise ValueError(f"--require: {symbol} is not in the formula; expected one of {', '.join(formula)}")
    if not left:
        raise ValueError("--forbid: leaves none of the elements; expected fewer, or more elements")


def _check_beside_group(asked: Options) -> None:
    """An error for what cannot be kept together with a space group."""
    key = "--space-group" if asked.space_group else "--crystal-system"
    if asked.fix:
        raise ValueError(
            f"{key}: expected no --fix beside it, for the operations would move the fixed atoms; leave out --fix, or "
            "draw with --fix alone and keep those of the group (`crysjax data space-groups`)"
        )
    if asked.require and not asked.formula:
        raise ValueError(f"{key}: expected no --require beside it, unless a --formula says the composition")

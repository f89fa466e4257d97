"""All keys of a plan with type, default and meaning, read from signatures and docstrings: they cannot disagree."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from crysjax.campaign import choices, measures, screens
from crysjax.campaign.plan import Plan
from crysjax.config import type_name

LISTS = {"gates": screens.NAMES, "measure": measures.NAMES}
"""Keys that hold some of these names."""


class Key(NamedTuple):
    """One key of a plan."""

    name: str
    type: str
    default: str
    meaning: str


def keys() -> list[Key]:
    """Every key of a plan; behind a choice its settings, with the choices that have them."""
    meaning, hints = described(Plan), typing.get_type_hints(Plan)
    found = []
    for one in fields(Plan):
        if one.name == "settings":
            continue
        kind = "one of " + ", ".join(choices.CHOICES[one.name]) if one.name in choices.CHOICES else ""
        kind = f"some of {', '.join(LISTS[one.name])}" if one.name in LISTS else kind
        default = "required" if one.default is MISSING else _shown(one.default)
        found.append(Key(one.name, kind or type_name(hints[one.name]), default, meaning[one.name]))
        found += _settings(one.name)
        if one.name == "target":
            found.append(Key("target.NAME.weight", "a number", "1", "How much a property counts beside the others."))
    return found


def _settings(key: str) -> list[Key]:
    """`KEY.SETTING` of all that the key may name; where only some have it, the meaning begins with them."""
    named = choices.named(key)
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for name, factory in named.items():
        texts, hints = described(factory), typing.get_type_hints(factory)
        for inner, default in choices.defaults(factory).items():
            row = (inner, type_name(hints[inner]), _shown(default), texts[inner])
            found.setdefault(row, []).append(name)
    return [
        Key(f"{key}.{inner}", kind, default, f"{'' if who in ([''], list(named)) else ', '.join(who) + ': '}{text}")
        for (inner, kind, default, text), who in found.items()
    ]


def described(documented: Callable[..., Any]) -> dict[str, str]:
    """Name -> meaning, from the section `Args` or `Attributes` of a docstring in Google's style."""
    _, _, section = re.sub(r"\n(Args|Attributes):\n", "\n\0", inspect.getdoc(documented) or "").partition("\0")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.split("\n\n")[0].splitlines():
        if entry := re.match(r" {4}(\w+(?:, \w+)*): (.*)", line):
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _shown(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'


def table(width: int = 100) -> str:
    """The keys as text, two lines each: for a terminal, and for the documentation."""
    import textwrap

    lines = []
    for key in keys():
        lines.append(f"{key.name}: {key.default}   ({key.type})")
        lines += textwrap.wrap(key.meaning, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)

"""What a plan chooses by name: `surrogate: gp`, with `surrogate.KEY` for the settings of the factory of that name.

The keyword-only signature of a factory is the schema of its settings. A setting that another choice of the same key has
is left out, so that one line of a plan swaps a choice.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crysjax.campaign.acquire import ACQUISITIONS
from crysjax.campaign.guide import GUIDANCES
from crysjax.campaign.judges import judging
from crysjax.campaign.learners import SURROGATES
from crysjax.campaign.screens import GATES, screens
from crysjax.config import checked, choice

SECTIONS: Mapping[str, Callable[..., Any]] = {"gates": screens, "judge": judging}
"""Key of a plan that is not a name, but has settings -> their factory."""

PARTS: Mapping[str, Mapping[str, Callable[..., Any]]] = {"gates": GATES}
"""Of these the factories whose settings are further settings of the key."""

CHOICES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "guidance": GUIDANCES, "surrogate": SURROGATES, "acquisition": ACQUISITIONS,
}  # fmt: skip
"""Key of a plan -> name -> factory."""


def factories(key: str) -> list[Callable[..., Any]]:
    """All that `KEY.SETTING` may belong to."""
    return list(named(key).values())


def named(key: str) -> dict[str, Callable[..., Any]]:
    """The same by name; a key that is not a name has its own factory under ""."""
    return {"": SECTIONS[key]} | dict(PARTS.get(key, {})) if key in SECTIONS else dict(CHOICES.get(key, {}))


def factory(key: str, name: Any) -> Callable[..., Any]:
    """What makes the thing that a plan names."""
    return SECTIONS[key] if key in SECTIONS else CHOICES[key][name]


def _owners(key: str, name: Any) -> list[Callable[..., Any]]:
    """The factories whose settings are those of what a plan chose."""
    return factories(key) if key in SECTIONS else [CHOICES[key][name]]


def nearest(text: str, known: Iterable[str]) -> str:
    """What was probably meant, in brackets."""
    near = difflib.get_close_matches(text, known, 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """The settings of a factory with their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def filled(names: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """All settings of what is chosen, the given ones checked and the others at their defaults; and keys not used.

    Args:
        names: key -> what is chosen.
        settings: `KEY.SETTING` -> value.
    """
    for key, name in names.items():
        if key in CHOICES and name not in CHOICES[key]:
            raise ValueError(f"{key}: {name!r}; expected {choice(name, CHOICES[key])}")
    found = {
        f"{key}.{k}": v for key, name in names.items() for one in _owners(key, name) for k, v in defaults(one).items()
    }
    unused = []
    for full, value in settings.items():
        key, _, inner = full.partition(".")
        known = {one for made in factories(key) for one in defaults(made)}
        if inner not in known:
            raise ValueError(f"{full}: unknown key; expected {choice(full, [f'{key}.{k}' for k in sorted(known)])}")
        if full not in found:
            unused.append(full)
            continue
        found[full] = _typed(key, names[key], inner, value)
    return found, unused


def _typed(key: str, name: Any, inner: str, value: Any) -> Any:
    try:
        owner = next(one for one in _owners(key, name) if inner in defaults(one))
        typed = checked(owner, {inner: value})[inner]
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from None
    return tuple(typed) if isinstance(typed, list) else typed


def made(key: str, name: Any, settings: Mapping[str, Any], *given: Any) -> Any:
    """The factory of this name called with its settings; what it refuses names `key.setting`, or the key."""
    make = factory(key, name)
    arguments = {inner: settings[f"{key}.{inner}"] for one in _owners(key, name) for inner in defaults(one)}
    try:
        return make(*given, **arguments)
    except ValueError as error:
        inner = str(error).partition(":")[0]
        raise ValueError(f"{key}.{error}" if inner in arguments else f"{key}: {error}") from None

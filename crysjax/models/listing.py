"""The models that are here or can be pulled, one row each: what kind, what for, and how good by one number.

A shipped model's card (README.md beside its weights) has the rows `use` and `in one number` in its first table, and
nothing is said of it that does not stand there. Of other models their own file says what they predict, and how well
they did on their validation part.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from crysjax.data.readers import reading
from crysjax.models import published, registry

KINDS = {
    "generator": "generator", "heads": "property heads", "potential": "potential", "synthesizability": "classifier",
}  # fmt: skip
UNMEASURED = "not measured here"
MOST_BYTES = 100_000  # of a card
COLUMNS = 100

_ROW = re.compile(r"^\| (use|in one number) \| (.+?) \|$", re.MULTILINE)


class Listed(NamedTuple):
    """One model."""

    name: str
    kind: str
    use: str
    measured: str
    path: str  # "" for one that is not here


def listed() -> list[Listed]:
    """Every model that is here, and the published ones that are not."""
    here = registry.installed()
    away = sorted(set(published.PUBLISHED) - set(here))
    return [_here(name) for name in here] + [
        Listed(name, "potential", f"not here: crysjax models pull {name}", "", "") for name in away
    ]


def line(one: Listed) -> str:
    """A model in at most `COLUMNS` characters."""
    use = _cut(one.use, 32) if one.measured else one.use
    return _cut(f"{_cut(one.name, 16):18s}{one.kind:16s}{use:34s}{one.measured}", COLUMNS).rstrip()


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _here(name: str) -> Listed:
    path = registry.model_path(name)
    try:
        kind, config = registry.kind_of(path)
    except ValueError as error:  # one damaged file hides no other
        return Listed(name, "damaged", str(error).removeprefix(f"{path}: "), UNMEASURED, str(path))
    said = _card(path.parent / "README.md") if path.parent.parent == registry.MODELS else {}
    use = said.get("use") or ", ".join(config.get("properties") or ()) or _origin(path)
    return Listed(name, KINDS.get(kind, str(kind)), use, said.get("in one number") or _validation(config), str(path))


def _card(path: Path) -> dict[str, str]:
    return dict(_ROW.findall(reading.read_text(path, MOST_BYTES))) if path.is_file() else {}


def _origin(path: Path) -> str:
    return "published by its own project" if path.stem in published.PUBLISHED else "of your own"


def _validation(config: dict[str, Any]) -> str:
    """The error of its first property on the validation part, whose name carries its unit; else the loss."""
    found = (config.get("card") or {}).get("validation") or {}
    errors = [f"mae/{name}" for name in config.get("properties") or ()] + sorted(found)
    mae = next((key for key in errors if key.startswith("mae/") and key in found), "")
    if mae:
        return f"MAE {found[mae]:.3g} of {mae.removeprefix('mae/')} (validation)"
    return f"loss {found['loss']:.3g} (validation)" if "loss" in found else UNMEASURED

"""`crysjax train` with `start: MODEL`: another model's settings, weights and properties, and a part that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crysjax.config import choice
from crysjax.models import registry

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset
    from crysjax.training.run import Run, Task

NONE = "none"  # every weight is trained


class Base(NamedTuple):
    """The model that a run starts from."""

    path: Path
    config: dict[str, Any]
    sha256: str


def base(run: Run) -> Base:
    """The model that `run.start` names; only generators can go on so far."""
    if run.kind != "generator":
        raise ValueError(f"start: {run.start!r}; a run of kind {run.kind!r} cannot start from a model, a generator can")
    from crysjax.data.readers import reading

    path = registry.model_path(run.start)
    config = registry.read_config(path, run.kind)
    return Base(path, config, reading.digest(path))


def split(settings: Mapping[str, Any], run: Run) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Settings of the model; the name of the adapter and its settings, checked."""
    from crysjax.training.adapters import ADAPTERS

    plain, nested = registry.sections(settings, ("adapter",))
    name, own = plain.pop("adapter", NONE), nested["adapter"]
    if name not in (NONE, *ADAPTERS):
        raise ValueError(f"adapter: {name!r}; expected {choice(name, (NONE, *ADAPTERS))}")
    if not run.start and (name != NONE or own):
        raise ValueError("adapter: needs a model to adapt; expected start: MODEL")
    if name == NONE and own:
        raise ValueError(f"adapter.{next(iter(own))}: adapter is none; expected adapter: {choice('', ADAPTERS)}")
    if name != NONE:
        registry.checked_in("adapter", ADAPTERS[name], own)
    return plain, name, own


def continued(
    base: Base, settings: Mapping[str, Any], run: Run, part: Dataset, held_out: Dataset
) -> tuple[dict[str, Any], Run, Dataset, Dataset]:
    """The run with the base's settings and properties, and its own properties after them.

    Statistics are the base's, so that no input changes its meaning; those of new properties come from `part`. A
    property of the base that the data set lacks is not given for any crystal.
    """
    from crysjax.training import tasks

    known = base.config["properties"]
    new = [name for name in run.properties if name not in known and name != "space_group"]
    center, scale = tasks.property_statistics(part, tuple(new))
    before = base.config["settings"]
    own = {
        f"generator.{key}": [*before.get(f"generator.{key}", []), *values]
        for key, values in (("property_center", center), ("property_scale", scale))
        if new
    }
    trained_on = base.config.get("card", {}).get("run", {}).get("properties", [])
    groups = "space_group" in run.properties or ("space_group" in trained_on and "space_group" in part.properties)
    names = [*known, *new, *(["space_group"] if groups else [])]
    part, held_out = (_with_columns(d, known) for d in (part, held_out))
    return before | own | dict(settings), run._replace(properties=names), part, held_out


def elements(run: Run, found: list[int]) -> list[int]:
    """Atomic numbers that the base or the data set has."""
    return sorted({*found, *base(run).config["elements"]}) if run.start else found


def started(task: Task, fresh: Any, base: Base, name: str, own: Mapping[str, Any], key: Any) -> tuple[Task, Any, str]:
    """The task of the trained part, that part before the first step, and a line that says what it is."""
    from crysjax.models import checkpoint
    from crysjax.training import adapters

    start = adapters.warm_start(fresh, checkpoint.read_params(base.path), _widened(base, task))
    _check_all_found(start, base, name)
    if name == NONE:
        part, merge, loss = start.params, lambda params: params, task.loss
    else:
        adapter = registry.called("adapter", adapters.ADAPTERS[name], own, start.params, start.new)
        part, merge, loss = adapter.init(key), adapter.merge, adapters.adapted(task.loss, adapter)
    trained, total = adapters.count(part), adapters.count(start.params)
    about = {"model": base.path.stem, "sha256": base.sha256, "adapter": name, **own, "trained_parameters": trained}

    def export(path: Path, card: dict, part: Any) -> Path:
        return task.export(path, card | {"parameters": total, "start": about}, merge(part))

    line = f"starts from {base.path.stem}; trains {trained:,} numbers, the model has {total:,}"
    if start.fresh:
        line += f"; {len(start.fresh)} weights have no counterpart there: {', '.join(start.fresh[:3])}"
    return task._replace(loss=loss, export=export), part, line


def _widened(base: Base, task: Task) -> dict[tuple[int, int], tuple[int, ...]]:
    """Where new properties lie in a context (`generators.coordinates`): values, whether they are given, space group."""
    from crysjax.generators.coordinates import SPACE_GROUPS, TIME_FREQUENCIES

    before, now = len(base.config["properties"]), len(task.config["properties"])
    new = range(before, now)
    found = {}
    for time in (0, 2 * TIME_FREQUENCIES + 1):  # some families have no time
        sizes = (time + 2 * before + SPACE_GROUPS, time + 2 * now + SPACE_GROUPS)
        found[sizes] = tuple(time + k for k in new) + tuple(time + now + k for k in new)
    return found


def _check_all_found(start: Any, base: Base, name: str) -> None:
    """A weight without a counterpart stays as it was drawn, and an adapter would never train it."""
    if start.fresh and name != NONE:
        raise ValueError(
            f"start: {base.path} has no weight of the name and shape of {start.fresh[0]}; expected that model's "
            "settings, or adapter: none, which trains every weight"
        )


def _with_columns(dataset: Dataset, names: list[str]) -> Dataset:
    """Properties of these names, missing everywhere where the data set lacks one."""
    import numpy as np

    missing = {name: np.full(len(dataset), np.nan, np.float32) for name in names if name not in dataset.properties}
    return replace(dataset, properties=dataset.properties | missing)

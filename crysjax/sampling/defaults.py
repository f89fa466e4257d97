"""How generators are drawn from beyond constraints: temperature, defaults of shipped models, a last warning."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysjax.models import families, registry
from crysjax.terminal import say

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset

MOST_ELEMENTS = 5  # 99 % of MP-20's crystals have no more
CROWDED = 0.1  # share of samples with more, from which on it is said


def temperature_key(config: Mapping[str, Any], model: str) -> str:
    """The setting that sharpens a model's draws: of all choices of a family that has it, else of species."""
    settings = config["settings"]
    if "temperature" in inspect.signature(families.factory(families.named(settings))).parameters:
        return "generator.temperature"
    if settings.get("species") == "discrete":
        return "species.temperature"
    raise ValueError(f"--temperature: {model} draws nothing whose temperature can be set")


def settings(path: Path, config: Mapping[str, Any], model: str, temperature: float | None, like: bool) -> dict:
    """Changed settings of the sampler: `temperature` if given, else the model's `defaults`."""
    if temperature is not None:
        return {temperature_key(config, model): temperature}
    return defaults(path, model, like, "; --temperature changes it")


def load(model: str, like: bool, changed: Mapping[str, Any] | None = None) -> registry.Model:
    """A generator with its `defaults`, unless `changed` says otherwise; they are said on standard error."""
    given = defaults(registry.model_path(model), model, like)
    return registry.load_model(model, "generator", given | dict(changed or {}))


def defaults(path: Path, model: str, like: bool, hint: str = "") -> dict[str, float]:
    """What `sampling.json` beside a model says of samples of given compositions (`like`) or free ones.

    Every command that draws from a generator takes these. They are said on standard error, followed by `hint`.
    """
    from crysjax.data.readers import reading

    file = path.with_name("sampling.json")
    if not file.exists():
        return {}
    try:
        found = reading.read_json(file)["like" if like else "free"]
        given = {str(key): float(value) for key, value in found.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected free and like, with settings and numbers ({error})") from None
    for key, value in given.items():
        say(f"crysjax: {key} {value:g}, as measured for {model}{hint}", err=True)
    return given


def warn_of_crowds(drawn: Dataset) -> None:
    """Say so if many samples mix more elements than real crystals do."""
    import numpy as np

    from crysjax.evaluation.metrics.distributions import num_elements

    counts = num_elements(drawn)
    many = counts > MOST_ELEMENTS
    if many.mean() > CROWDED:
        say(
            f"crysjax: {many.sum()} of {len(drawn)} samples have more than {MOST_ELEMENTS} elements (median "
            f"{np.median(counts):g}), as one in a hundred real crystals does; --num-elements 1:{MOST_ELEMENTS} or a "
            "lower --temperature keeps to fewer",
            err=True,
        )

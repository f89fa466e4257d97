"""Names in configs -> factories, and models that rebuild themselves from their own config.

A config is flat. `network: dense` names a factory and `network.width: 256` is a setting of it; what may follow the
dot is that factory's keyword-only signature.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crysjax.campaign.settings import checked, choice

MODELS = Path(__file__).parents[1] / "models"


class Model(NamedTuple):
    """A trained model: the pure functions, their parameters, and the config that made it."""

    build: Any  # what the config's kind builds: a Generator, or heads
    params: Any
    config: dict[str, Any]


def sections(settings: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict, dict[str, dict]]:
    """Split flat settings: keys without a section, and `section.key` by section."""
    plain: dict[str, Any] = {}
    nested: dict[str, dict] = {name: {} for name in names}
    for key, value in settings.items():
        section, dot, inner = key.partition(".")
        if dot and section in nested:
            nested[section][inner] = value
        else:
            plain[key] = value
    return plain, nested


def made(role: str, name: str, factories: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The factory `name` called with its checked settings; errors name `role.key`."""
    if name not in factories:
        raise ValueError(f"{role}: {name!r}; expected {choice(name, factories)}")
    try:
        return factories[name](**checked(factories[name], settings))
    except ValueError as error:
        raise ValueError(f"{role}.{error}") from None


def networks() -> dict[str, Any]:
    """Backbones by name."""
    from crysjax.nets.dense import dense
    from crysjax.nets.equivariant import equivariant

    return {"dense": dense, "equivariant": equivariant}


FIELDS = ("frac", "lattice", "species")


def build_generator(settings: Mapping[str, Any]) -> Any:
    """A generator from flat settings: network, frac, lattice, species, and `generator.*`."""
    from crysjax.generators import processes
    from crysjax.generators.iterative import iterative

    plain, nested = sections(settings, ("network", "generator", *FIELDS))
    network = made("network", plain["network"], networks(), nested["network"])
    tables = dict(zip(FIELDS, (processes.POSITIONS, processes.LATTICE, processes.SPECIES)))
    fields = {field: made(field, plain[field], tables[field], nested[field]) for field in FIELDS}
    try:
        return iterative(network, **checked(iterative, nested["generator"] | fields))
    except ValueError as error:
        raise ValueError(f"generator.{error}") from None


def build_heads(settings: Mapping[str, Any]) -> Any:
    """Property heads from flat settings: network, `heads.*`, and `ensemble.*` where there is more than one member."""
    from crysjax.properties import ensembles
    from crysjax.properties import heads as single

    plain, nested = sections(settings, ("network", "heads", "ensemble"))
    network = made("network", plain["network"], networks(), nested["network"])
    try:
        head = single.heads(network, **checked(single.heads, nested["heads"]))
    except ValueError as error:
        raise ValueError(f"heads.{error}") from None
    if not nested["ensemble"]:
        return head
    try:
        return ensembles.ensemble(head, **checked(ensembles.ensemble, nested["ensemble"]))
    except ValueError as error:
        raise ValueError(f"ensemble.{error}") from None


def model_path(name: str) -> Path:
    """The file of a shipped or pulled model, or of a path; an error lists the models there are."""
    for path in (MODELS / name / f"{name}.npz", pulled_folder() / f"{name}.npz", pulled_folder() / f"{name}.nqx"):
        if path.exists():
            return path
    if Path(name).is_file():
        return Path(name)
    raise ValueError(f"{name!r} is neither a file nor a model; expected a path or {choice(name, installed())}")


def pulled_folder() -> Path:
    """Where `crysjax models pull` puts files: $CRYSJAX_MODELS, or a folder in the home directory."""
    return Path(os.environ.get("CRYSJAX_MODELS", Path.home() / ".local" / "share" / "crysjax" / "models"))


def installed() -> list[str]:
    """Names of the models that are here, shipped ones first."""
    shipped = sorted(p.parent.name for p in MODELS.glob("*/*.npz") if p.stem == p.parent.name)
    return shipped + sorted(p.stem for p in pulled_folder().glob("*") if p.suffix in (".npz", ".nqx"))


def load_model(name: str, kind: str, overrides: Mapping[str, Any] | None = None) -> Model:
    """Rebuild a model from its file; `overrides` change settings that training does not fix, such as the steps."""
    from crysjax.training import checkpoint

    path = model_path(name)
    config = checkpoint.read_config(path)
    if config.get("kind") != kind:
        raise ValueError(f"{path}: this is a model of {config.get('kind')}, expected one of {kind}")
    build = BUILDERS[kind](config["settings"] | dict(overrides or {}))
    return Model(build, checkpoint.read_params(path), config)


def _elements(part: Any) -> list[int]:
    """Atomic numbers that occur."""
    return sorted(set(part.numbers.tolist()))


class Task(NamedTuple):
    """What `crysjax train` needs to know of a kind of model."""

    init: Any  # (key, pack, labels) -> params
    loss: Any  # (params, key, pack, labels) -> (scalar, metrics)
    names: tuple[str, ...]  # the labels
    settings: dict[str, Any]  # all that rebuilds the model
    about: dict[str, Any]  # further entries of the model's config


def generator_task(settings: Mapping[str, Any], part: Any, names: tuple[str, ...]) -> Task:
    """Statistics of the training part enter the settings, so that the model rebuilds itself without the data."""
    import jax.numpy as jnp
    import numpy as np

    from crysjax.base import Condition
    from crysjax.training import tasks

    center, scale = tasks.lattice_statistics(part)
    scalars = tuple(name for name in names if name != "space_group")  # a label of its own, not a number
    property_center, property_scale = tasks.property_statistics(part, scalars)
    found = {"lattice_center": center, "lattice_scale": scale}
    found |= {"property_center": property_center, "property_scale": property_scale}
    settings = {f"generator.{k}": v for k, v in found.items()} | dict(settings)
    generator = build_generator(settings)
    sizes, count = np.unique(part.num_atoms, return_counts=True)
    about = {"properties": list(scalars), "sizes": {int(n): int(c) for n, c in zip(sizes, count)}}
    about["elements"] = _elements(part)

    def init(key: Any, pack: Any, labels: Any) -> Any:
        crystals = pack.lattice.shape[0]
        nothing = Condition(jnp.full((crystals, len(scalars)), jnp.nan), jnp.zeros(crystals, jnp.int32))
        return generator.init(key, pack, nothing)

    return Task(init, tasks.generator_loss(generator, names), names, settings, about)


def heads_task(settings: Mapping[str, Any], part: Any, names: tuple[str, ...]) -> Task:
    """Property heads on the labels `names`."""
    from crysjax.training import tasks

    if not names:
        raise ValueError("properties: []; expected at least one property to predict")
    center, scale = tasks.property_statistics(part, names)
    found = {"heads.names": list(names), "heads.center": center, "heads.scale": scale}
    settings = dict(settings) | found
    heads = build_heads(settings)
    about = {"properties": list(names), "elements": _elements(part)}
    return Task(lambda key, pack, labels: heads.init(key, pack), heads.loss, names, settings, about)


BUILDERS = {"generator": build_generator, "heads": build_heads}
TASKS = {"generator": generator_task, "heads": heads_task}

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


def load_predictor(name: str) -> tuple[Any, dict[str, Any]]:
    """Property heads as the campaign uses them, and their config; features are the first member's crystal features."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from crysjax.campaign.propose import Predictor

    model = load_model(name, "heads")
    settings = model.config["settings"]
    plain, nested = sections(settings, ("network",))
    network = made("network", plain["network"], networks(), nested["network"])
    many = any(key.startswith("ensemble.") for key in settings)

    def features(params: Any, pack: Any) -> Any:
        first = jax.tree.map(lambda leaf: leaf[0], params) if many else params
        return network.apply(first["network"], pack, jnp.ones((pack.lattice.shape[0], 1), pack.frac.dtype)).crystal

    width = int(np.shape(model.params["head"]["first"])[-2])
    numbers = (tuple(settings[f"heads.{key}"]) for key in ("center", "scale"))
    predictor = Predictor(tuple(settings["heads.names"]), *numbers, model.build.predict, features, width, model.params)
    return predictor, model.config


BUILDERS = {"generator": build_generator, "heads": build_heads}

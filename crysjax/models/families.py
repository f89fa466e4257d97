"""Generator families by name, a line each: `family: NAME` in a config, `generator.KEY` for the factory's settings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crysjax.config import choice


class Family(NamedTuple):
    """Where a family's factory stands, what it is given by name, and what else it trains on."""

    factory: str  # module:function
    needs: tuple[str, ...] = ()  # "network", and fields whose process it takes: "frac", "lattice", "species"
    facts: str = ""  # module:function, (training part) -> further settings, kept in the model
    view: str = ""  # module:function, (dataset) -> rows(members, shape) -> `Views`


FIELDS = ("frac", "lattice", "species")

FAMILIES = {
    "iterative": Family("generators.iterative:iterative", ("network", *FIELDS)),
    "coupling_flow": Family("generators.normalizing_flow:coupling_flow", ("network",)),
    "continuous_flow": Family("generators.continuous_flow:continuous_flow", ("network",)),
    "vae": Family("generators.vae:vae", ("network", *FIELDS)),
    "vq_vae": Family("generators.vq_vae:vq_vae", ("network", *FIELDS)),
    "latent_diffusion": Family("generators.latent_diffusion:latent_diffusion"),
    "wyckoff": Family("generators.wyckoff.family:wyckoff", view="crystallography.wyckoff_view:wyckoff_view"),
    "text": Family("generators.text.family:text"),
    "gan": Family("generators.gan:gan", ("network",)),
    "energy_based": Family("generators.energy_based:energy_based", ("network",)),
    "retrieval": Family(
        "generators.retrieval:retrieval",
        ("network",),
        "retrieval.element_metric:facts",
        "retrieval.start_view:pairs_view",
    ),
}


def named(settings: Mapping[str, Any]) -> Family:
    """The family that a config names; without a name, diffusion and flow matching (`iterative`)."""
    name = settings.get("family", "iterative")
    if name not in FAMILIES:
        raise ValueError(f"family: {name!r}; expected {choice(name, FAMILIES)}")
    return FAMILIES[name]


def factory(family: Family) -> Callable:
    """The factory; its keyword-only signature is the schema of `generator.*`."""
    return _imported(family.factory)


def statistics(family: Family, found: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """What a training part says, as settings: the usual statistics that the factory asks for, and its own facts."""
    known = inspect.signature(factory(family)).parameters
    own = _imported(family.facts)(part) if family.facts else {}
    return {f"generator.{key}": value for key, value in {**found, **own}.items() if key in known}


def view(family: Family) -> Callable | None:
    """What makes the family's view of a data set, if it has one."""
    return _imported(family.view) if family.view else None


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"crysjax.{module}"), name)

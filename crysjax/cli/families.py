"""Generator families by name, a line each: `family: NAME` in a config, `generator.KEY` for the factory's settings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crysjax.campaign.settings import choice


class Family(NamedTuple):
    """Where a family's factory stands, what it is given by name, and what else it trains on."""

    factory: str  # module:function in `crysjax.generators`
    needs: tuple[str, ...] = ()  # "network", and fields whose process it takes: "frac", "lattice", "species"
    facts: str = ""  # module:function in `crysjax.data`, (training part) -> further settings, kept in the model
    view: str = ""  # module:function in `crysjax.data`, (dataset) -> rows(members, shape) -> `Condition.view`


FIELDS = ("frac", "lattice", "species")

FAMILIES = {
    "iterative": Family("iterative:iterative", ("network", *FIELDS)),
    "coupling_flow": Family("normalizing_flow:coupling_flow", ("network",)),
    "continuous_flow": Family("continuous_flow:continuous_flow", ("network",)),
    "vae": Family("vae:vae", ("network", *FIELDS)),
    "vq_vae": Family("vq_vae:vq_vae", ("network", *FIELDS)),
    "latent_diffusion": Family("latent_diffusion:latent_diffusion"),
    "wyckoff": Family("wyckoff:wyckoff", view="wyckoff_view:wyckoff_view"),
    "text": Family("text:text"),
    "gan": Family("gan:gan", ("network",)),
    "energy_based": Family("energy_based:energy_based", ("network",)),
    "retrieval": Family("retrieval:retrieval", ("network",), "element_metric:facts", "start_view:pairs_view"),
}


def named(settings: Mapping[str, Any]) -> Family:
    """The family that a config names; without a name, diffusion and flow matching (`iterative`)."""
    name = settings.get("family", "iterative")
    if name not in FAMILIES:
        raise ValueError(f"family: {name!r}; expected {choice(name, FAMILIES)}")
    return FAMILIES[name]


def factory(family: Family) -> Callable:
    """The factory; its keyword-only signature is the schema of `generator.*`."""
    return _imported("generators", family.factory)


def statistics(family: Family, found: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """What a training part says, as settings: the usual statistics that the factory asks for, and its own facts."""
    known = inspect.signature(factory(family)).parameters
    own = _imported("data", family.facts)(part) if family.facts else {}
    return {f"generator.{key}": value for key, value in {**found, **own}.items() if key in known}


def view(family: Family) -> Callable | None:
    """What makes the family's view of a data set, if it has one."""
    return _imported("data", family.view) if family.view else None


def _imported(room: str, place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"crysjax.{room}.{module}"), name)

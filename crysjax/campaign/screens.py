"""The gates of a plan: `gates: [NAME, ...]`, with `gates.KEY` for their settings.

They are asked of crystals as drawn and again after relaxation. Three stand in `evaluation/gates`; one by a number of
each crystal is a factory and its row in `GATES`. A window of density is one more gate.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crysjax.base import Pack
from crysjax.chemistry.element_properties import masses_amu
from crysjax.config import choice
from crysjax.evaluation import gates as all_gates
from crysjax.evaluation.gates import DENSITY, REASONS, SYNTHESIZABLE, Bound, Gated
from crysjax.models import registry
from crysjax.physics.density import of_pack_g_cm3


class Gate(NamedTuple):
    """A gate by a number of each crystal, its settings checked; nothing is loaded yet."""

    quantity: str  # the number, as the ledger names it
    bound: Callable[[], Bound]
    model: str = ""  # that it asks, by name or path: its file is part of what a campaign's state depends on


def synthesizable(*, least_score: float = 0.5, scorer: str = "synthesizability") -> Gate:
    """Crystals that resemble those that have been made.

    Args:
        least_score: smallest score that passes, from 0 to 1: how much a crystal resembles crystals that have been made,
            on the scale of a probability.
        scorer: model of synthesizability that is asked, by name or path.
    """
    if not 0 <= least_score <= 1:
        raise ValueError(f"least_score: {least_score}; expected a number from 0 to 1")

    def bound() -> Bound:
        model = registry.load_model(scorer, "synthesizability")
        return Bound(lambda pack: model.build.predict(model.params, pack).value[:, 0], low=least_score)

    return Gate(SYNTHESIZABLE, bound, scorer)


GATES: Mapping[str, Callable[..., Gate]] = {"synthesizable": synthesizable}
"""Gates by a number of each crystal; their settings are `gates.KEY`, so no two may share a name."""

NAMES = (*REASONS, *GATES)
"""What `gates` may hold."""


class Screens(NamedTuple):
    """Settings of the gates; `made` builds them once the models are known."""

    names: tuple[str, ...]
    volumes: Mapping[str, float]
    more: tuple[Gate, ...]  # of `GATES`, those that are named


def screens(
    names: tuple[str, ...], *, min_volume_per_atom: float = 4.0, max_volume_per_atom: float = 80.0, **of_gates: Any
) -> Screens:
    """Which crystals are worth a prediction; `of_gates` are settings of `GATES`.

    Args:
        min_volume_per_atom: smallest volume that the gate dense lets pass, Å³ per atom.
        max_volume_per_atom: largest volume that the gate dense lets pass, Å³ per atom.
    """
    for name in names:
        if name not in NAMES:
            raise ValueError(f"{name!r}; expected {choice(name, NAMES)}")
        if names.count(name) > 1:
            raise ValueError(f"{name!r}; expected each gate once")
    if not 0 < min_volume_per_atom < max_volume_per_atom < math.inf:
        raise ValueError(f"min_volume_per_atom: {min_volume_per_atom}; expected more than 0, less than the largest")
    volumes = {"min_volume_per_atom": min_volume_per_atom, "max_volume_per_atom": max_volume_per_atom}
    own = {name: inspect.signature(make).parameters.keys() & of_gates.keys() for name, make in GATES.items()}
    if strange := of_gates.keys() - set().union(*own.values()):
        raise TypeError(f"screens: no gate has the settings {sorted(strange)}")
    every = {name: make(**{key: of_gates[key] for key in own[name]}) for name, make in GATES.items()}  # checked, too
    return Screens(names, volumes, tuple(gate for name, gate in every.items() if name in names))


def made(chosen: Screens, max_atoms: int, density_g_cm3: tuple[Any, ...] = ()) -> Callable[[Pack], Gated]:
    """The gates as one function of a pack."""
    bounds = {gate.quantity: gate.bound() for gate in chosen.more}
    if density_g_cm3:
        low, high = density_g_cm3
        sides = (-math.inf if low is None else low, math.inf if high is None else high)
        bounds[DENSITY] = Bound(of_pack_g_cm3(masses_amu()), *sides)
    names = [name for name in chosen.names if name in REASONS]
    return all_gates.gates(max_atoms=max_atoms, names=names, bounds=bounds, **chosen.volumes)

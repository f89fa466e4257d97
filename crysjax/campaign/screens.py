"""The gates of a plan: `gates: [NAME, ...]`, with `gates.KEY` for their settings.

They are asked of crystals as drawn and again after relaxation. A window of density is one more gate.
"""

from __future__ import annotations

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

NAMES = (*REASONS, "synthesizable")
"""What `gates` may hold."""


class Screens(NamedTuple):
    """Settings of the gates; `made` builds them once the models are known."""

    names: tuple[str, ...]
    volumes: Mapping[str, float]
    least_score: float
    scorer: str  # "" where no score is asked for


def screens(
    names: tuple[str, ...], *, min_volume_per_atom: float = 4.0, max_volume_per_atom: float = 80.0,
    least_score: float = 0.5, scorer: str = "synthesizability",
) -> Screens:  # fmt: skip
    """Which crystals are worth a prediction.

    Args:
        min_volume_per_atom: smallest volume that the gate dense lets pass, Å³ per atom.
        max_volume_per_atom: largest volume that the gate dense lets pass, Å³ per atom.
        least_score: smallest score that the gate synthesizable lets pass: probability-like, of resembling crystals
            that have been made.
        scorer: model of synthesizability that the gate synthesizable asks, by name or path.
    """
    for name in names:
        if name not in NAMES:
            raise ValueError(f"{name!r}; expected {choice(name, NAMES)}")
        if names.count(name) > 1:
            raise ValueError(f"{name!r}; expected each gate once")
    if not 0 < min_volume_per_atom < max_volume_per_atom < math.inf:
        raise ValueError(f"min_volume_per_atom: {min_volume_per_atom}; expected more than 0, less than the largest")
    if not 0 <= least_score <= 1:
        raise ValueError(f"least_score: {least_score}; expected a number from 0 to 1")
    volumes = {"min_volume_per_atom": min_volume_per_atom, "max_volume_per_atom": max_volume_per_atom}
    return Screens(names, volumes, least_score, scorer if "synthesizable" in names else "")


def made(chosen: Screens, max_atoms: int, density_g_cm3: tuple[Any, ...] = ()) -> Callable[[Pack], Gated]:
    """The gates as one function of a pack."""
    bounds = {}
    if chosen.scorer:
        model = registry.load_model(chosen.scorer, "synthesizability")
        bounds[SYNTHESIZABLE] = Bound(lambda pack: model.build.predict(model.params, pack).value[:, 0],
                                      low=chosen.least_score)  # fmt: skip
    if density_g_cm3:
        low, high = density_g_cm3
        sides = (-math.inf if low is None else low, math.inf if high is None else high)
        bounds[DENSITY] = Bound(of_pack_g_cm3(masses_amu()), *sides)
    names = [name for name in chosen.names if name in REASONS]
    return all_gates.gates(max_atoms=max_atoms, names=names, bounds=bounds, **chosen.volumes)

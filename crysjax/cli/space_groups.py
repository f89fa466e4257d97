"""`crysjax sample --space-group`: by construction or by orbits, and samples of larger groups drawn again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crysjax.cli.show import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.data.datasets import Dataset
    from crysjax.guidance.constraints import Constraints


def kept_by_orbits(loaded: Any, native: bool, limits: Constraints, templates: Dataset, seed: int) -> tuple:
    """`constraints.Ready` of a generator whose crystals are given orbits of the group, others in every round."""
    import numpy as np

    from crysjax.campaign import sampling
    from crysjax.guidance import space_group

    made = [space_group.composition(limits.formula, n) for n in templates.num_atoms.tolist()]
    space_group.draw_orbits(limits.space_group, made)  # for its refusals

    def start(rows: np.ndarray, again: int) -> tuple[Dataset, Any]:
        orbits = space_group.draw_orbits(limits.space_group, [made[k] for k in rows], seed=seed + 1000 * again)
        numbers = np.concatenate([space_group.sites_of(one) for one in orbits])
        return sampling.blank(templates.num_atoms[rows], numbers), space_group.orbits_view(orbits)

    known = set(limits.allowed or loaded.config["elements"]) - set(limits.forbidden)
    return space_group.in_group(loaded.build, native=native), loaded.params, start, tuple(sorted(known))


ROUNDS = 5
"""How often samples are drawn whose group contains the one asked for and is larger."""


def in_exact_group(draw: Callable[[np.ndarray, int], Dataset], count: int, group: int) -> Dataset:
    """Samples `draw(rows, again)` of a group; those of a larger one are drawn again, and told if they remain."""
    import numpy as np

    from crysjax.data import datasets, splits

    rows, drawn = np.arange(count), None
    for again in range(ROUNDS):
        new = draw(rows, again)
        if drawn is None:
            drawn = new
        else:
            order = np.arange(count)
            order[rows] = count + np.arange(len(rows))
            ids, drawn = drawn.ids, datasets.take(datasets.concatenate([drawn, new]), order)
            drawn = replace(drawn, ids=ids)
        rows = rows[splits.space_groups(datasets.take(drawn, rows)) != group]
        if not len(rows):
            return drawn
    say(f"crysjax: {len(rows)} of {count} samples have a larger group that contains {group}", err=True)
    return drawn


def by_construction(config: dict) -> bool:
    """Whether the model's family has every crystal in the group that it is asked for."""
    return config["settings"].get("family") == "wyckoff"


def told_group(config: dict) -> bool:
    """Whether the model takes the group as a condition."""
    trained_on = config.get("card", {}).get("run", {}).get("properties", [])
    return by_construction(config) or "space_group" in trained_on

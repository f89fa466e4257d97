"""`crysjax sample --space-group`: by construction or by orbits, and samples of larger groups drawn again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crysjax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.constraints.constraints import Constraints
    from crysjax.data.datasets import Dataset


def kept_by_orbits(loaded: Any, native: bool, limits: Constraints, templates: Dataset, seed: int) -> tuple:
    """`constraints.Ready` of a generator whose crystals are given orbits of the group, others in every round."""
    import numpy as np

    from crysjax.constraints import space_group
    from crysjax.sampling import draws

    made = [space_group.composition(limits.formula, n) for n in templates.num_atoms.tolist()]
    space_group.draw_orbits(limits.space_group, made)  # for its refusals

    def start(rows: np.ndarray, again: int) -> tuple[Dataset, Any]:
        orbits = space_group.draw_orbits(limits.space_group, [made[k] for k in rows], seed=seed + 1000 * again)
        numbers = np.concatenate([space_group.sites_of(one) for one in orbits])
        return draws.blank(templates.num_atoms[rows], numbers), space_group.orbits_view(orbits)

    known = set(limits.allowed or loaded.config["elements"]) - set(limits.forbidden)
    return space_group.in_group(loaded.build, native=native), loaded.params, start, tuple(sorted(known))


ROUNDS = 5
"""How often samples are drawn whose group contains the one asked for and is larger."""

SIZE_ROUNDS = 3
"""How often those that remain are drawn in cells of other sizes: small ones often cannot have so little symmetry."""

Draw = Callable[["np.ndarray", int], "Dataset"]


def in_exact_group(
    draw: Draw, resize: Draw, rows: np.ndarray, group: int, broken: Callable[[Dataset], np.ndarray] | None = None
) -> Dataset:
    """Samples `draw(rows, again)` of a group; those of a larger one are drawn again, at last in other sizes.

    So are those that are `broken` otherwise, which whoever called has to count.

    How many have another size than was drawn first, and how many remain in a larger group, is said.
    """
    from crysjax.data import datasets
    from crysjax.splits import grouped

    count, drawn, first_size, left, larger = len(rows), None, None, rows, rows > len(rows)
    for again in range(ROUNDS + SIZE_ROUNDS):
        new = (draw if again < ROUNDS else resize)(left, again)
        drawn = new if drawn is None else _replaced(drawn, left, new)
        first_size = drawn.num_atoms if first_size is None else first_size
        now = datasets.take(drawn, left)
        larger = grouped.space_groups(now) != group
        again_too = larger | broken(now) if broken is not None else larger
        left, larger = left[again_too], larger[again_too]
        if not len(left):
            break
    resized = int((drawn.num_atoms != first_size).sum())
    if resized:
        say(f"crysjax: {resized} of {count} samples have other sizes than drawn first, for group {group}", err=True)
    if larger.any():
        say(f"crysjax: {larger.sum()} of {count} samples have a larger group that contains {group}", err=True)
    return drawn


def _replaced(drawn: Dataset, rows: np.ndarray, new: Dataset) -> Dataset:
    """The data set with these rows replaced by new crystals, under their old ids."""
    import numpy as np

    from crysjax.data import datasets

    order = np.arange(len(drawn))
    order[rows] = len(drawn) + np.arange(len(rows))
    return replace(datasets.take(datasets.concatenate([drawn, new]), order), ids=drawn.ids)


def by_construction(config: dict) -> bool:
    """Whether the model's family has every crystal in the group that it is asked for."""
    return config["settings"].get("family") == "wyckoff"


def told_group(config: dict) -> bool:
    """Whether the model takes the group as a condition."""
    trained_on = config.get("card", {}).get("run", {}).get("properties", [])
    return by_construction(config) or "space_group" in trained_on

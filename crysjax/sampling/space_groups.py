"""Space groups of samples: by construction or by orbits, and samples that lack them, or break more, drawn again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crysjax.terminal import say

if TYPE_CHECKING:
    from crysjax.constraints.constraints import Constraints
    from crysjax.data.datasets import Dataset
    from crysjax.sampling.options import Options


class DrawStart(NamedTuple):
    """What a draw begins with; one row per crystal."""

    numbers: np.ndarray | None  # (sites,) atomic numbers of the templates, 0 = free; None: all free
    view: Callable | None  # (rows, shape) -> `base.Views`
    group: np.ndarray  # (m,) the space group that the generator is told, 0 = none


Starter = Callable[[np.ndarray, int], DrawStart]
"""(sizes (m,), seed) -> how to begin."""


def asked(options: Options) -> tuple[int, ...]:
    """The space groups that a crystal may have; () = any."""
    from crysjax.evaluation.metrics.symmetry import crystal_system

    if options.space_group:
        return (options.space_group,)
    numbers = np.arange(1, 231)
    return tuple(numbers[crystal_system(numbers) == options.crystal_system].tolist()) if options.crystal_system else ()


def sizes(limits: Constraints, of_model: dict[int, int]) -> dict[int, int]:
    """The sizes that positions of a group add up to; an error with groups that can be had if there is none."""
    from crysjax.constraints import space_group
    from crysjax.constraints.constraints import formula_name
    from crysjax.evaluation.metrics.symmetry import crystal_system

    groups, made = limits.space_groups, {n: space_group.composition(limits.formula, n) for n in of_model}
    found = {n: of_model[n] for n, of in made.items() if any(space_group.possible(g, of) for g in groups)}
    if found:
        return found
    instead = [g for g in range(230, 0, -1) if any(space_group.possible(g, of) for of in made.values())][:5]
    said = f"--space-group: {groups[0]}"
    if len(groups) > 1:
        said = f"--crystal-system: {crystal_system(np.array(groups))[0]}"
    what = formula_name(limits.formula) or "free species"
    raise ValueError(
        f"{said}; no positions add up to {what} in {min(of_model)} to {max(of_model)} atoms; groups that have them: "
        f"{', '.join(map(str, instead))} and others; or change the formula, --min-atoms or --max-atoms"
    )


def starter(limits: Constraints, config: dict[str, Any]) -> Starter:
    """A group for every crystal, evenly among those that its composition can have, and orbits where they are needed."""
    from crysjax.constraints import space_group

    told, orbits = told_group(config), not by_construction(config)

    def start(sizes: np.ndarray, seed: int) -> DrawStart:
        made = [space_group.composition(limits.formula, int(n)) for n in sizes]
        rng = np.random.default_rng((seed, 230))
        fit = {
            n: [g for g in limits.space_groups if space_group.possible(g, of)] for n, of in zip(sizes.tolist(), made)
        }
        group = np.array([rng.choice(fit[n]) for n in sizes.tolist()])
        said = group if told else np.zeros_like(group)
        if not orbits:
            return DrawStart(None, None, said)
        drawn: dict[int, space_group.SymmetryOrbits] = {}
        for g in np.unique(group):
            rows = np.flatnonzero(group == g)
            drawn |= dict(zip(rows.tolist(), space_group.draw_orbits(int(g), [made[k] for k in rows], seed=seed)))
        each = [drawn[k] for k in range(len(sizes))]
        numbers = np.concatenate([space_group.sites_of(one) for one in each])
        return DrawStart(numbers, space_group.orbits_view(each), said)

    return start


ROUNDS = 5
"""How often samples are drawn whose group contains the one asked for and is larger."""

SIZE_ROUNDS = 3
"""How often those that remain are drawn in cells of other sizes: small ones often cannot have so little symmetry."""

Draw = Callable[[np.ndarray, int], "Dataset"]


def drawn_again(
    draw: Draw, resize: Draw, rows: np.ndarray, groups: tuple[int, ...], broken: Callable[[Dataset], np.ndarray]
) -> Dataset:
    """Samples `draw(rows, again)`; those of none of the groups (larger ones) are drawn again, at last in other sizes.

    So are those that are `broken` otherwise, which whoever called has to count. () are all groups. Each size has
    `ROUNDS` draws and the rest `SIZE_ROUNDS` at sizes drawn anew: within a size the accepted follow the law of `draw`,
    but sizes of small acceptance get a smaller share than they were drawn with, and a larger one than under rejection.

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
        larger = ~np.isin(grouped.space_groups(now), groups) if groups else np.zeros(len(now), bool)
        again_too = larger | broken(now)
        left, larger = left[again_too], larger[again_too]
        if not len(left):
            break
    resized, said = int((drawn.num_atoms != first_size).sum()), _said(groups)
    if resized:
        say(f"crysjax: {resized} of {count} samples have other sizes than drawn first, for {said}", err=True)
    if larger.any():
        say(f"crysjax: {larger.sum()} of {count} samples have a larger group than {said}", err=True)
    return drawn


def _said(groups: tuple[int, ...]) -> str:
    if not groups:
        return "what is asked of them"
    return f"group {groups[0]}" if len(groups) == 1 else f"one of the groups {groups[0]} to {groups[-1]}"


def _replaced(drawn: Dataset, rows: np.ndarray, new: Dataset) -> Dataset:
    """The data set with these rows replaced by new crystals, under their old ids."""
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

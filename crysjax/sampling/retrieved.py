"""What a retrieval-based model sets out from where no composition is asked for: a known structure for every crystal.

The model exchanges its elements (`generators/exchange`) and keeps to those that are allowed and to charges that add up.
Charges, the number of elements and the space group choose among the structures; all other constraints are kept by
rejection.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.constraints.constraints import Constraints
from crysjax.constraints.violations import violations
from crysjax.data import datasets
from crysjax.data.datasets import Dataset
from crysjax.generators.exchange import MAX_KINDS
from crysjax.generators.retrieval import retrieval
from crysjax.models import cells, registry
from crysjax.retrieval.start_view import start_view
from crysjax.sampling.keeping import Ready
from crysjax.sampling.space_groups import DrawStart, Starter
from crysjax.splits import grouped
from crysjax.terminal import say

ANYTHING = Constraints()


def looks_up(config: Mapping[str, Any]) -> bool:
    """Whether a model is retrieval-based."""
    return config["settings"].get("family") == "retrieval"


def templates(what: str, structures: Dataset, limits: Constraints = ANYTHING) -> Dataset:
    """The structures that may be templates, in standard cells; an error if there is none. `what` names the option.

    A template has at most `MAX_KINDS` elements, and as many as `limits` asks for; it has one of the space groups, and
    is neutral where crystals have to be.
    """
    if limits.formula or limits.fixed is not None:
        named = "formula" if limits.formula else "fix"
        raise ValueError(f"{what}: templates decide the composition; expected no {named} beside them")
    (found,), _ = cells.standard(what, structures)
    kinds = np.array([len(of) for of in _elements(found)], int)
    low, high = limits.num_elements or (1, MAX_KINDS)
    keep = (low <= kinds) & (kinds <= min(high, MAX_KINDS))
    if limits.states:
        keep &= ~violations(Constraints(states=limits.states), found)["neutral"]
    if limits.space_groups:
        keep[keep] = np.isin(grouped.space_groups(datasets.take(found, keep)), limits.space_groups)
    if not keep.any():
        raise ValueError(f"{what}: none of {len(found)} structures can be a template for what is asked")
    if not keep.all():
        why = f"more than {MAX_KINDS} elements, or not of what is asked"
        say(f"crysjax: {what}: {(~keep).sum()} of {len(found)} structures are left out: {why}", err=True)
    return datasets.take(found, keep)


def sizes(structures: Dataset) -> dict[int, int]:
    """Number of atoms -> templates."""
    of, count = np.unique(structures.num_atoms, return_counts=True)
    return dict(zip(of.tolist(), count.tolist()))


def ready(model: str, changed: Mapping[str, Any], structures: Dataset, limits: Constraints) -> Ready:
    """The generator, and a start from one of the structures (`templates`) for every crystal."""
    loaded = registry.load_model(model, "generator", dict(changed))
    left = set(limits.allowed or loaded.config["elements"]) - set(limits.forbidden)
    elements = tuple(sorted(left))
    return Ready(loaded.build, loaded.params, starter(structures, loaded.config, elements), elements)


def _elements(structures: Dataset) -> list[np.ndarray]:
    """The different atomic numbers of each structure."""
    first = datasets.offsets(structures)[:-1]
    return [np.unique(structures.numbers[a : a + n]) for a, n in zip(first, structures.num_atoms)]


def chances(structures: Dataset, config: Mapping[str, Any], allowed: Sequence[int]) -> np.ndarray:
    """The probability that an exchange of its elements, drawn freely, gives elements that are allowed: (m,).

    Templates drawn by it give the law of free exchanges under the condition that all elements are allowed, but for
    repeats within a crystal.
    """
    settings, known = config["settings"], np.array(config["elements"], int)
    of = inspect.signature(retrieval).parameters
    sharpness, stay, elements = (
        settings.get(f"generator.{name}", of[name].default) for name in ("sharpness", "stay", "elements")
    )
    points = np.asarray(elements or np.zeros((NUM_SPECIES, 1)), float)
    apart = np.sqrt(((points[:, None] - points[None, known - 1]) ** 2).sum(-1))
    logit = stay * (np.arange(1, NUM_SPECIES + 1)[:, None] == known[None]) - sharpness * apart
    weight = np.exp(logit - logit.max(1, keepdims=True))
    inside = weight[:, np.isin(known, np.asarray(allowed, int))].sum(1) / weight.sum(1)
    return np.array([inside[of.astype(int) - 1].prod() for of in _elements(structures)])


def starter(structures: Dataset, config: Mapping[str, Any], allowed: Sequence[int]) -> Starter:
    """A template of its size for every crystal, likelier the nearer its elements are to those that are allowed."""
    weight = chances(structures, config, allowed)

    def start(of_crystals: np.ndarray, seed: int) -> DrawStart:
        rng, chosen = np.random.default_rng((seed, 1)), np.zeros(len(of_crystals), int)
        for size in np.unique(of_crystals):
            rows, known = np.flatnonzero(of_crystals == size), np.flatnonzero(structures.num_atoms == size)
            if not (weight[known] > 0).any():
                raise ValueError(f"templates: none of {size} atoms can carry the elements that are asked for")
            chosen[rows] = rng.choice(known, len(rows), p=weight[known] / weight[known].sum())
        found = datasets.take(structures, chosen)
        found = replace(
            found, properties={"found": np.ones(len(found), np.float32)}, site_properties={"was": found.numbers}
        )
        return DrawStart(None, start_view(found, [found]), np.zeros(len(found), int))

    return start

"""Samples to compare models by: structures of given compositions with their match rate, and free ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from crysjax.base import Generator
from crysjax.crystallography import matching
from crysjax.data.datasets import Dataset
from crysjax.evaluation.metrics.distributions import Interval, interval
from crysjax.retrieval import templates
from crysjax.retrieval.start_view import start_view
from crysjax.sampling import draws
from crysjax.sampling import retrieved as from_templates


class Tried(NamedTuple):
    """Candidate sets, one per try, and the seconds that they took, compilation included."""

    sets: list[Dataset]
    seconds: float


def candidates(
    generator: Generator, params: Any, asked: Dataset, *, properties: int, tries: int = 1, seed: int = 0,
    views: Sequence[Callable | None] = (None,), pairs: int = 2048,
) -> Tried:  # fmt: skip
    """`tries` samples for the composition of every row; positions and cells of `asked` are never looked at.

    Args:
        properties: number of conditions of the model, none of which is given.
        views: what the family is given beside the composition, one per try or one for all (see `retrieved`).
    """
    blank = draws.blank(asked.num_atoms, asked.numbers)
    nothing = np.full((len(asked), properties), np.nan)
    begun, drawn = time.perf_counter(), []
    for k, key in enumerate(jax.random.split(jax.random.key(seed), tries)):
        view = views[min(k, len(views) - 1)]
        drawn.append(draws.sample(generator, params, key, blank, nothing, view=view, pairs=pairs))
    return Tried(drawn, time.perf_counter() - begun)


def free(
    generator: Generator, params: Any, config: dict, count: int, *, seed: int = 0, pairs: int = 2048,
    templates: Dataset | None = None,
) -> Dataset:  # fmt: skip
    """`count` samples of which nothing is asked, of sizes as in the model's training data.

    A family that starts from templates exchanges elements in `templates`, whose sizes they then have.
    """
    known, view = tuple(config["elements"]), None
    if templates is None:
        blank = draws.blank(draws.draw_sizes(seed, config["sizes"], count))
    else:
        blank = draws.blank(draws.draw_sizes(seed, from_templates.sizes(templates), count))
        view = from_templates.starter(templates, config, known)(blank.num_atoms, seed).view
    nothing = np.full((count, len(config["properties"])), np.nan)
    return draws.sample(generator, params, jax.random.key(seed), blank, nothing, elements=known, view=view, pairs=pairs)


def retrieved(
    train: Dataset, asked: Dataset, config: dict, *, count: int = 5, tries: int = 1, seed: int = 0
) -> list[Callable]:
    """Views for a family that starts from templates: the judge's choice among `count`, then one template per try.

    Templates are looked up by the metric of elements that the model has learned (`config` is the model's); `seed`
    draws among equally near ones.
    """
    elements = config["settings"].get("generator.elements")
    ranks = templates.nearest_templates(train, asked, tries=max(count, tries), elements=elements, seed=seed)
    return [start_view(asked, ranks[:count]), *(start_view(asked, [rank]) for rank in ranks[1:tries])]


def match(asked: Dataset, found: Sequence[Dataset], *, processes: int = 2) -> dict[str, Interval]:
    """Match rate and RMSE (CDVAE's matcher) of the first try and of the best of all, with 95 % intervals.

    `cRMSE` counts a row without a match as the matcher's tolerance (Martirossyan et al. 2025), so that many loose
    matches do not look better than fewer close ones.
    """
    rms = matching.match_pairs(asked, found, processes=processes).rms
    numbers = {"match, 1 try": rms[:, :1]} | ({f"match, {len(found)} tries": rms} if len(found) > 1 else {})
    metrics = {}
    for name, values in numbers.items():
        best = matching.MatchResult(values).best
        metrics[name] = interval(np.isfinite(best))
        metrics[name.replace("match", "mean RMSE")] = interval(best)
        metrics[name.replace("match", "cRMSE")] = interval(np.where(np.isfinite(best), best, matching.CDVAE.stol))
    return metrics

"""Crystals from a trained generator: free ones, or of given compositions, with constraints that hold exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from crysjax.config import choice
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset
from crysjax.models import cells, registry
from crysjax.models.answers import warn_of_strangers
from crysjax.sampling import best, defaults, draws, keeping, options, prediction, retrieved, space_groups
from crysjax.terminal import say

if TYPE_CHECKING:
    from crysjax.constraints.constraints import Constraints

Progress = Callable[[int, int], None]  # (done, total) of the packs of one draw
SPACE_GROUP = "space_group"


class Request(NamedTuple):
    """What is asked of a generator; the defaults ask for nothing.

    Attributes:
        count: free samples, where `like` is not given.
        like: crystals whose compositions are asked for, one sample for each (structure prediction).
        templates: what a retrieval-based model looks up from, or exchanges elements in where `like` is not given.
        min_atoms, max_atoms: of the smallest and the largest cell.
        constraints: what every sample keeps.
        properties: name -> value or (low, high), for conditions that the model was trained with; a range is one value
            per crystal, uniform within it.
        guidance: weight of all conditions together, or one for each name.
        steps: of the sampler.
        temperature: a factor; choices are sharper below 1. None: the model's own default.
        best_of: samples of each composition of `like`, of which the one with the lowest formation energy is kept.
        by: the property heads that predict it.
    """

    count: int = 100
    like: Dataset | None = None
    templates: Dataset | None = None
    max_atoms: int | None = None
    constraints: options.Options = options.Options()
    properties: Mapping[str, float | tuple[float, float]] = {}
    guidance: float | Mapping[str, float] | None = None
    steps: int | None = None
    temperature: float | None = None
    min_atoms: int = 1
    best_of: int = 1
    by: str = "mp_20_heads"


def sample(model: str, request: Request, *, seed: int = 0, progress: Progress = lambda done, total: None) -> Dataset:
    """Samples of a generator, by the name of a shipped model or its path; the same seed gives the same bits."""
    path = registry.model_path(model, "generator")
    config = registry.read_config(path, "generator")
    names, known = [*config["properties"], SPACE_GROUP], config["elements"]
    request = request._replace(constraints=options.unified(request.constraints))
    limits = keeping.wanted(request.constraints, known)
    built, rejected = keeping.drawn_by(limits), keeping.by_rejection(limits)
    heads = _checked(model, config, request)
    sizes, structures = None, None
    if request.like is not None:
        options.beside_like(request.constraints)
        warn_of_strangers("--like", request.like, known, "samples")
        blank = replace(draws.blank(request.like.num_atoms, request.like.numbers), ids=request.like.ids)
    else:
        if request.templates is not None:
            structures, rejected = retrieved.templates("--templates", request.templates, limits), limits
        sizes = _sizes(config, request, structures)
        sizes = keeping.sizes(built, sizes, known) if structures is None else sizes
        blank = draws.blank(draws.draw_sizes(seed, sizes, request.count, request.max_atoms))
    changed = _changed(request, names)
    changed |= defaults.settings(path, config, model, request.temperature, request.like is not None)
    made = partial(_ready, model, changed, built if structures is None else limits, structures)
    ready, shape = made(blank.num_atoms), None if structures is None else batching.capacity(_repeated(sizes))
    asked = wanted_properties(request.properties, names, len(blank), seed)
    group = request.constraints.space_group
    if group and space_groups.told_group(config):
        asked[:, -1] = group
    view = None
    if request.templates is not None and request.like is not None:
        (known_ones,), _ = cells.standard("--templates", request.templates)
        view = prediction.retrieved(known_ones, blank, config)[0]
    key = jax.random.key(seed)

    def draw(rows: np.ndarray, again: int, ready: keeping.Ready = ready, templates: Dataset = blank) -> Dataset:
        template, told, own = datasets.take(templates, rows) if templates is blank else templates, asked[rows, -1], None
        if ready.start is not None:
            begun = ready.start(template.num_atoms, seed + 1000 * again)
            template, own = draws.blank(template.num_atoms, begun.numbers), begun.view
            told = np.where(begun.group > 0, begun.group, told)
        return draws.sample(
            ready.generator, ready.params, jax.random.fold_in(key, again) if again else key, template,
            asked[rows, :-1], elements=ready.elements, view=view or own, on_pack=progress,
            space_group=np.nan_to_num(told).astype(np.int32), shape=shape,
        )  # fmt: skip

    def resize(rows: np.ndarray, again: int) -> Dataset:
        other = draws.blank(draws.draw_sizes(seed + 1000 * again, sizes, len(rows), request.max_atoms))
        return draw(rows, again, ready if structures is not None else made(other.num_atoms), other)

    everyone = np.arange(len(blank))
    if heads is not None:
        drawn = best.lowest([draw(everyone, k) for k in range(request.best_of)], heads)
    elif limits.space_groups or rejected != type(limits)():
        broken = partial(keeping.broken, rejected)
        drawn = space_groups.drawn_again(draw, resize, everyone, limits.space_groups, broken)
    else:
        drawn = draw(everyone, 0)
    _tell_of_failures(drawn)
    return _warned(request, keeping.kept(limits, _with_request(drawn, asked, names, group)))


def _ready(
    model: str, changed: dict[str, Any], limits: Constraints, structures: Dataset | None, num_atoms: np.ndarray
) -> keeping.Ready:
    """The generator that keeps the constraints in crystals of these sizes, or in what becomes of the structures."""
    if structures is not None:
        return retrieved.ready(model, changed, structures, limits)
    return keeping.ready(model, changed, limits, num_atoms.tolist())


def _repeated(sizes: Mapping[int, int]) -> np.ndarray:
    """Every size as often as there are crystals of it; of packs for all of them one program is compiled."""
    return np.repeat(list(sizes), list(sizes.values()))


def _sizes(config: Mapping[str, Any], request: Request, structures: Dataset | None) -> dict[int, int]:
    """Sizes of the model, or of the structures that it sets out from, neither too small nor too large, with counts."""
    known = config["sizes"] if structures is None else retrieved.sizes(structures)
    of_model = {int(n): count for n, count in known.items()}
    most = max(of_model) if request.max_atoms is None else request.max_atoms
    if most < min(of_model):
        raise ValueError(f"--max-atoms: {most}; the model knows sizes from {min(of_model)}")
    found = {n: count for n, count in of_model.items() if request.min_atoms <= n <= most}
    if not found:
        raise ValueError(f"--min-atoms: {request.min_atoms}; expected a number up to {min(most, max(of_model))}")
    return found


def _tell_of_failures(drawn: Dataset) -> None:
    """A line on standard error for samples that are no crystals: sizes beyond what the model can draw, for one."""
    finite = np.isfinite(drawn.lattice).all((1, 2))
    if not finite.all():
        first = int(np.argmin(finite))
        which = f"the first is {drawn.ids[first]}, of {drawn.num_atoms[first]} atoms"
        count = f"{int((~finite).sum())} of {len(drawn)} samples are not finite"
        say(f"crysjax: {count}; {which}: is that more than the model was trained on?", err=True)


def _with_request(drawn: Dataset, asked: np.ndarray, names: Sequence[str], group: int) -> Dataset:
    """The samples with what each was asked for, (m, names), as `asked_NAME`: `evaluate --heads` compares."""
    columns = {f"asked_{name}": asked[:, k] for k, name in enumerate(names) if np.isfinite(asked[:, k]).any()}
    if group:
        columns[f"asked_{SPACE_GROUP}"] = np.full(len(drawn), group, np.float32)
    return replace(drawn, properties=drawn.properties | columns)


def _check_templates(model: str, config: Mapping[str, Any], request: Request) -> None:
    if retrieved.looks_up(config) != (request.templates is not None):
        raise ValueError(
            f"{model}: a retrieval-based flow needs --templates, known structures such as aflow-prototypes; others take"
            " no --templates"
        )


def _warned(request: Request, drawn: Dataset) -> Dataset:
    if request.like is None:
        defaults.warn_of_crowds(drawn)
    return drawn


def _checked(model: str, config: Mapping[str, Any], request: Request) -> registry.Model | None:
    """The heads that choose among several samples of a composition, None where one is drawn; errors of the request."""
    _check_templates(model, config, request)
    if not 1 <= request.best_of <= best.MOST:
        raise ValueError(f"--best-of: {request.best_of}; expected a number from 1 to {best.MOST}")
    if request.best_of > 1 and request.like is None:
        raise ValueError("--best-of: chooses among samples of one composition; expected --like beside it")
    return best.energies(request.by) if request.best_of > 1 else None


def _changed(request: Request, names: Sequence[str]) -> dict[str, Any]:
    """Settings of the generator that the request changes."""
    guidance = request.guidance
    if isinstance(guidance, Mapping):
        guidance = [float(guidance.get(name, 0.0)) for name in names]
    changed = {"generator.steps": request.steps, "generator.guidance": guidance}
    return {key: value for key, value in changed.items() if value is not None}


def wanted_properties(
    properties: Mapping[str, float | tuple[float, float]], names: Sequence[str], count: int, seed: int
) -> np.ndarray:
    """What each crystal is asked for, (count, names), NaN where nothing is; a range is one value per crystal."""
    asked = np.full((count, len(names)), np.nan, np.float32)
    for name, value in properties.items():
        if name not in names:
            raise ValueError(f"{name}: not a condition of this model; expected {choice(name, names)}")
        k = names.index(name)
        low, high = (float(v) for v in (value if isinstance(value, tuple) else (value, value)))
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ValueError(f"{name}: {value}; expected a number, or the lower and the upper end of a range")
        if name == SPACE_GROUP and not (low == high and low in range(1, 231)):
            raise ValueError(f"{name}: {value}; expected a space group from 1 to 230")
        # one stream per property, and apart from the draws of sizes, which have the seed alone
        asked[:, k] = np.random.default_rng((seed, k)).uniform(low, high, count) if low < high else low
    return asked

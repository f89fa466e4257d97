"""What `crysjax train` needs to know of each kind of model: its loss, its batches, and how its file is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysjax.models import cells, families, registry
from crysjax.terminal import say
from crysjax.training import fine_tune
from crysjax.training.run import Run, Task

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset
    from crysjax.training.run import Run


POTENTIAL_LABELS = ("energy_ev_per_atom", "forces_ev_per_a",
                    *(f"stress_{ij}_ev_per_a3" for ij in ("xx", "yy", "zz", "yz", "xz", "xy")))  # fmt: skip
"""What a potential learns from, by the names of `data.datasets`, which the command line imports when it works."""


def generator(settings: Mapping[str, Any], run: Run, part: Dataset, held_out: Dataset) -> Task:
    """Statistics of the training part enter the settings, so that the model rebuilds itself without the data.

    Both parts come in standard cells (`cells.of_training`); the card says so, and what the dense network sees.
    """
    import jax.numpy as jnp
    import numpy as np

    from crysjax.base import Condition
    from crysjax.nets import dense
    from crysjax.training import tasks

    names = tuple(run.properties)
    scalars = tuple(name for name in names if name != "space_group")  # a label of its own, not a number
    if not run.start:  # else the settings have those of the model that it starts from
        center, scale = tasks.lattice_statistics(part)
        property_center, property_scale = tasks.property_statistics(part, scalars)
        found = {"lattice_center": center, "lattice_scale": scale}
        found |= {"property_center": property_center, "property_scale": property_scale}
        settings = families.statistics(families.named(settings), found, part) | dict(settings)
    made = registry.build_generator(settings)
    sizes, count = np.unique(part.num_atoms, return_counts=True)
    about = {"properties": list(scalars), "sizes": {int(n): int(c) for n, c in zip(sizes, count)}}
    about["elements"] = fine_tune.elements(run, _elements(part))
    symmetry = {"cells": cells.KIND} | ({"symmetry": dense.SYMMETRY} if settings.get("network") == "dense" else {})

    view = families.view(families.named(settings))

    def init(key: Any, pack: Any, labels: Any) -> Any:
        crystals = pack.lattice.shape[0]
        nothing = Condition(jnp.full((crystals, len(scalars)), jnp.nan), jnp.zeros(crystals, jnp.int32), *labels.views)
        return made.init(key, pack, nothing)

    loss = tasks.generator_loss(made)
    task = _by_properties(run, part, held_out, scalars, settings, about, init, loss, view, scalars != names)
    return task._replace(export=lambda path, card, params: task.export(path, card | symmetry, params))


def heads(settings: Mapping[str, Any], run: Run, part: Dataset, held_out: Dataset) -> Task:
    """Property heads, one property per label; their std is calibrated on the validation split."""
    import numpy as np

    from crysjax.data import batching
    from crysjax.models import checkpoint
    from crysjax.predictors import ranges
    from crysjax.training import tasks
    from crysjax.training.recalibrate import calibrate, remembered

    names = tuple(run.properties)
    if not names:
        raise ValueError("properties: []; expected at least one property to predict")
    center, scale = tasks.property_statistics(part, names)
    tasks.check_labels(part, held_out, names, run.validation_split)
    found = {"heads.names": list(names), "heads.center": center, "heads.scale": scale}
    least = [x if np.isfinite(x) else None for x in map(ranges.least, names)]
    settings = {"heads.least": least} | dict(settings) | found
    made = registry.build_heads({k: v for k, v in settings.items() if not k.startswith("novelty.")})

    def init(key: Any, pack: Any, labels: Any) -> Any:
        return made.init(key, pack)

    about, loss = {"properties": list(names)}, tasks.heads_loss(made)
    task = _by_properties(run, part, held_out, names, settings, about, init, loss)

    def export(path: Path, card: dict, params: Any) -> Path:
        shape = batching.capacity(np.concatenate([part.num_atoms, held_out.num_atoms]), run.pairs)
        params = remembered(settings, params, part, shape)
        calibrated, report = calibrate(made, params, settings, held_out, shape)
        config = task.config | {"settings": calibrated, "card": card | {"calibration": report}}
        return checkpoint.export(path, config, params)

    return task._replace(export=export)


def synthesizability(settings: Mapping[str, Any], run: Run, part: Dataset, held_out: Dataset) -> Task:
    """A classifier from positive and unlabeled crystals; its card says what the score means and holds its report."""
    import numpy as np

    from crysjax.data import batching, datasets
    from crysjax.models import checkpoint
    from crysjax.predictors import synthesizability as pu
    from crysjax.predictors.predictor import estimate
    from crysjax.training import tasks

    names = tuple(run.properties)
    if len(names) != 1:
        raise ValueError(f"properties: {list(names)}; expected one column, which says what has been made")
    # files are often sorted by label, and a validation pack has to hold both kinds
    held_out = datasets.take(held_out, np.random.default_rng(run.seed).permutation(len(held_out)))
    observed, others = (pu.labeled(d, names[0]) for d in (part, held_out))
    made = registry.build_synthesizability(settings)
    prior = float(settings["pu.prior"])
    about = {"properties": list(made.names), "observed": names[0], "meaning": pu.meaning(prior)}
    shape = batching.capacity(np.concatenate([part.num_atoms, held_out.num_atoms]), run.pairs)
    pu.check_packs(observed, len(part) / len(batching.assign(part.num_atoms, shape)))

    def init(key: Any, pack: Any, labels: Any) -> Any:
        return made.init(key, pack)

    task = _by_properties(run, part, held_out, names, settings, about, init, tasks.heads_loss(made))

    def export(path: Path, card: dict, params: Any) -> Path:
        score = estimate(made.predict, params, held_out, shape).value[:, 0]
        found = {"synthesizability": pu.report(score, others, prior)}
        return checkpoint.export(path, task.config | {"card": card | found}, params)

    return task._replace(export=export)


def _by_properties(
    run: Run, part: Dataset, held_out: Dataset, names: tuple[str, ...], settings: dict, about: dict,
    init: Callable, loss: Callable, view: Callable | None = None, group: bool = False,
) -> Task:  # fmt: skip
    """A task whose labels are columns of the data set, beside a view of it where `view(dataset)` makes one."""
    import jax
    import numpy as np

    from crysjax.data import batching
    from crysjax.models import checkpoint
    from crysjax.training import tasks

    shape = batching.capacity(np.concatenate([part.num_atoms, held_out.num_atoms]), run.pairs)
    config = {"kind": run.kind, "settings": settings, "elements": _elements(part)} | about

    def packs() -> list[tuple]:
        own = view and view(held_out)
        groups = batching.assign(held_out.num_atoms, shape)
        made = (tasks.labeled(held_out, [rows], shape, names, own, group) for rows in groups)
        return [jax.tree.map(lambda leaf: leaf[0], one) for one in made]

    return Task(
        init, loss, tasks.stream(part, shape, run.tiles, run.seed, names, view and view(part), group), packs, config,
        lambda path, card, params: checkpoint.export(path, config | {"card": card}, params),
    )  # fmt: skip


def potential(settings: Mapping[str, Any], run: Run, part: Dataset, held_out: Dataset) -> Task:
    """An interatomic potential on energies, forces and stresses; it knows the elements of the training part."""
    import numpy as np

    from crysjax.data import batching, datasets
    from crysjax.potentials import learn, mlip
    from crysjax.training import tasks

    if datasets.ENERGY not in part.properties:
        raise ValueError(f"data: no property {datasets.ENERGY!r}; it has {sorted(part.properties)}")
    tasks.check_scales(part, POTENTIAL_LABELS)
    tasks.check_labels(part, held_out, POTENTIAL_LABELS, run.validation_split)
    plain, nested = registry.sections(settings, ("network", "loss"))
    registry.no_others(plain, ("network",), "a potential")
    own = {"numbers": tuple(_elements(part))} | nested["network"]
    registry.made("network", plain.get("network"), mlip.NETWORKS, own)  # for its errors alone
    made = mlip.mlip(network=plain["network"], **own)
    _check_numbers(made.numbers, part)
    loss = registry.called("loss", learn.force_loss, nested["loss"], made)
    shape = batching.capacity(np.concatenate([part.num_atoms, held_out.num_atoms]), run.pairs)
    edges, others = (learn.all_edges(d, made.cutoff_angstrom) for d in (part, held_out))
    room = max(learn.room_for_edges(e, shape, d.num_atoms) for e, d in ((edges, part), (others, held_out)))
    reference = learn.element_energies(part)

    def init(key: Any, pack: Any, labels: Any) -> Any:
        params = made.init(key)  # energies of the elements, where there is a place for them
        return params | {"reference": reference[np.asarray(made.numbers) - 1]} if "reference" in params else params

    def packs() -> list[tuple]:
        groups = batching.assign(held_out.num_atoms, shape, edges=others.count, max_edges=room)
        return tasks.force_packs(held_out, others, groups, shape, room)

    return Task(
        init, loss, tasks.force_stream(part, edges, shape, room, run.tiles, run.seed), packs,
        {"kind": "potential", "settings": made.config},
        lambda path, card, params: mlip.save_potential(path, made, params, card=card),
    )  # fmt: skip


def _check_numbers(numbers: tuple[int, ...], part: Dataset) -> None:
    from crysjax.chemistry.elements import SYMBOLS

    strange = [SYMBOLS[z - 1] for z in _elements(part) if z not in numbers]
    if strange:
        raise ValueError(f"network.numbers: {list(numbers)}; {strange[0]} of the data set is not among them")


def _elements(part: Dataset) -> list[int]:
    """Atomic numbers that occur."""
    return sorted(set(part.numbers.tolist()))


TASKS = {"generator": generator, "heads": heads, "potential": potential, "synthesizability": synthesizability}


def warn_of_labels(run: Run, part: Dataset, held_out: Dataset) -> None:
    """A line on standard error for every label that looks like a placeholder, before anything is learned from it."""
    import numpy as np

    from crysjax.data import placeholders

    names = POTENTIAL_LABELS if run.kind == "potential" else run.properties
    for name in run.properties if run.kind == "generator" else ():
        there, here = (np.isfinite(d.properties.get(name, np.nan)).any() for d in (part, held_out))
        if there and not here:
            said = f"no crystal of the validation split {run.validation_split!r} has {name}: it is judged without"
            say(f"crysjax: warning: {said}", err=True)
    for line in dict.fromkeys(line for some in (part, held_out) for line in placeholders.said(some, names)):
        say(f"crysjax: warning: {line}", err=True)


def refuse_metrics(metrics: Mapping[str, float], out: Path) -> None:
    """An error for a metric of the validation part that is no number: such a model says nothing."""
    from crysjax.training.loop import NonFiniteLoss

    wrong = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteLoss(f"validation: {', '.join(wrong)}; no model was written, the checkpoint in {out} is kept")

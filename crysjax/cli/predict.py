"""`crysjax predict`: properties with an uncertainty that knows how far the training data are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from crysjax.cli.data import read_part
from crysjax.cli.models import warn_of_strangers
from crysjax.models import registry
from crysjax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.base import Estimate
    from crysjax.data.datasets import Dataset


class Answers(NamedTuple):
    """What a model says of a data set; NaN where it has no answer."""

    said: Estimate  # (m, k)
    novelty: np.ndarray  # (m,) distance from the training data, see `predictors.novelty`
    limit: float  # of the novelty, beyond which a crystal is outside of them; infinite where the model does not know


def ask(loaded: registry.Model, dataset: Dataset) -> Answers:
    """Predictions, and how far each crystal lies from what the model was trained on."""
    import jax
    import numpy as np

    from crysjax.data import batching
    from crysjax.predictors.predictor import estimate

    shape = batching.capacity(dataset.num_atoms)
    said = estimate(loaded.build.predict, loaded.params, dataset, shape)
    far = jax.jit(loaded.build.novelty)
    novelty = batching.each_crystal(lambda pack: far(loaded.params, pack), dataset, shape)
    there = said.valid.all(-1)
    value, std = (np.where(there[:, None], leaf, np.nan) for leaf in (said.value, said.std))
    limit = float(loaded.config["settings"].get("novelty.limit", np.inf))
    return Answers(said._replace(value=value, std=std), np.where(there, novelty, np.nan), limit)


def with_novelty(drawn: Dataset, heads: str) -> Dataset:
    """Samples with their novelty as a property, and `outside`, 1 beyond the heads' limit; both in a line, too.

    A crystal that the heads do not take has neither.
    """
    import jax
    import numpy as np

    from crysjax.data import batching

    loaded = registry.load_model(heads, "heads")
    limit = float(loaded.config["settings"].get("novelty.limit", np.inf))
    if not np.isfinite(limit):
        raise ValueError(f"--novelty {heads}: these heads do not know how far their training data are")
    both = jax.jit(lambda params, pack: (loaded.build.novelty(params, pack), loaded.build.features(params, pack)))
    novelty, features = batching.each_crystal(lambda pack: both(loaded.params, pack), drawn)
    novelty = np.where(np.isfinite(features).all(-1), novelty, np.nan)
    outside = np.where(np.isnan(novelty), np.nan, novelty > limit)
    say(f"crysjax: {_far(novelty, limit, heads)}", err=True)
    return replace(drawn, properties=drawn.properties | {"novelty": novelty, "outside": outside})


def _far(novelty: np.ndarray, limit: float, heads: str) -> str:
    import numpy as np

    known = novelty[~np.isnan(novelty)]
    if not len(known):
        return f"{heads} takes none of the {len(novelty)} samples: more neighbors, or thinner cells, than it knows"
    refused = f"; {len(novelty) - len(known)} are none that it takes" if len(known) < len(novelty) else ""
    return (
        f"{(known > limit).sum()} of {len(known)} samples ({(known > limit).mean():.1%}) are outside the training data "
        f"of {heads}: novelty above {limit:.2f}, which 1 % of held-out crystals reach; the median is "
        f"{np.median(known):.2f}{refused}"
    )


def tell(answers: Answers, what: str) -> None:
    """Lines on standard error: how many crystals have no answer, and how many are outside the training data."""
    import numpy as np

    count, refused = len(answers.novelty), int(np.isnan(answers.novelty).sum())
    if refused:
        reason = "more neighbors, or a thinner cell, than the model takes"
        say(f"crysjax: {refused} of {count} {what} have no prediction: {reason}", err=True)
    outside = int((answers.novelty > answers.limit).sum())
    if outside:
        say(f"crysjax: {outside} of {count} {what} are outside the training data: their novelty is above "
            f"{answers.limit:.2f}, which 1 % of held-out crystals reach", err=True)  # fmt: skip


def predict(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    model: str = typer.Option("mp_20_heads", help="Heads or synthesizability: name of a shipped model, or a path."),
    out: Path | None = typer.Option(None, help="CSV to write; left out, rows are printed."),
) -> None:
    """Predict properties with uncertainty; a crystal that the model cannot take has empty cells.

    `novelty` is how far a crystal lies from the training data: 1 % of held-out crystals are beyond the model's limit,
    and `outside` is 1 there.
    """
    import numpy as np

    from crysjax.data import files

    loaded, dataset = registry.load_scorer(model), read_part(crystals)
    if loaded.config.get("elements"):
        warn_of_strangers(crystals, dataset, loaded.config["elements"], "predictions", counted=True)
    answers = ask(loaded, dataset)
    head = ["id", *(f"{name}{end}" for name in loaded.config["properties"] for end in ("", "_std"))]
    columns = np.stack([answers.said.value, answers.said.std], -1).reshape(len(dataset), -1)
    if np.isfinite(answers.limit):
        head += ["novelty", "outside"]
        columns = np.column_stack([columns, answers.novelty, answers.novelty > answers.limit])
    meaning = loaded.config.get("meaning")
    note = [meaning] if meaning and out else []  # a file keeps it beside every score
    cells = [["" if np.isnan(v) else f"{v:.5g}" for v in row] for row in columns]
    table = files.csv_text(head + ["meaning"] * len(note), [[i, *row, *note] for i, row in zip(dataset.ids, cells)])
    if meaning:
        say(f"crysjax: {loaded.config['properties'][0]}: {meaning}", err=True)
    tell(answers, "crystals")
    if out is None:
        say(table.rstrip("\n"))
    else:
        files.write(out, table)
        say(f"{out}: {len(dataset)} crystals")

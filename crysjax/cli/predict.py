"""`crysjax predict`: properties with an uncertainty that knows how far the training data are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.models.answers import Answers, ask, warn_of_strangers
from crysjax.terminal import say

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset


def tell(answers: Answers, dataset: Dataset, what: str) -> None:
    """Lines on standard error: how many crystals have no answer, and how many are outside the training data."""
    import numpy as np

    count, refused = len(answers.novelty), np.flatnonzero(np.isnan(answers.novelty))
    if len(refused):
        reason = "more neighbors, or a thinner cell, than the model takes"
        first = refused[0]
        volume = abs(np.linalg.det(dataset.lattice[first].astype(float))) / dataset.num_atoms[first]
        which = f"the first is row {first + 1} (id {dataset.ids[first]}), {volume:.3g} Å³ per atom"
        say(f"crysjax: {len(refused)} of {count} {what} have no prediction: {reason}; {which}", err=True)
    outside = int(np.nansum(answers.outside))
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
        columns = np.column_stack([columns, answers.novelty, answers.outside])
    meaning = loaded.config.get("meaning")
    note = [meaning] if meaning and out else []  # a file keeps it beside every score
    cells = [["" if np.isnan(v) else f"{v:.5g}" for v in row] for row in columns]
    table = files.csv_text(head + ["meaning"] * len(note), [[i, *row, *note] for i, row in zip(dataset.ids, cells)])
    if meaning:
        say(f"crysjax: {loaded.config['properties'][0]}: {meaning}", err=True)
    tell(answers, dataset, "crystals")
    if out is None:
        say(table.rstrip("\n"))
    else:
        files.write(out, table)
        say(f"{out}: {len(dataset)} crystals")

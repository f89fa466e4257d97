"""`crysjax predict`: properties with an uncertainty that knows how far the training data are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.data.readers.part import read_part
from crysjax.models.answers import Answers, table, warn_of_strangers
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

    `novelty` is the distance of a crystal from the training data. The model's limit is the novelty that 1 % of held-out
    crystals exceed, and `outside` is 1 for crystals beyond it.
    """
    from crysjax.front import verbs

    dataset = read_part(crystals)
    answers = verbs.predict(dataset, model, out=out)
    if answers.elements:
        warn_of_strangers(crystals, dataset, answers.elements, "predictions", counted=True)
    if answers.meaning:
        say(f"crysjax: {answers.names[0]}: {answers.meaning}", err=True)
    tell(answers, dataset, "crystals")
    say(table(dataset.ids, answers).rstrip("\n") if out is None else f"{out}: {len(dataset)} crystals")

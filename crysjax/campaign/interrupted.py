"""What a killed round had done: its relaxations are kept, and what has to be asked again is counted.

A round that is begun again draws the same candidates. Relaxations that had ended are not made a second time, nor is
what a calculator that judges had answered; those that a kill ended halfway, and the candidates sampled again, have been
paid for and stand in `summary.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.campaign import judges, kept_answers
from crysjax.campaign.judges import Judge, Relax
from crysjax.campaign.outcomes import CRYSTALS
from crysjax.campaign.validate import Relaxed
from crysjax.data import digests, files
from crysjax.data.datasets import Dataset
from crysjax.evaluation.ledger import Row

RELAXED, BEGUN, COUNTED = "relaxed.npz", "relaxed_by_potential.npz", "interrupted.json"
NOTHING = {"rounds": 0, "sampled": 0, "relaxations": 0, "relaxing": 0}


def counted(folder: Path) -> dict[str, int]:
    """Rounds that were killed, and what was sampled and relaxed in vain in them; `relaxing` is under way."""
    path = folder / COUNTED
    if not path.exists():
        return dict(NOTHING)
    try:
        return NOTHING | {name: int(number) for name, number in digests.read_json(path).items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: damaged ({error}); remove it to count from nothing") from None


def begin(folder: Path, left: Iterable[Row], *, fresh: bool) -> None:
    """At the start of a campaign: add the rows of a killed round to the count, or forget it all if it is `fresh`."""
    if fresh:
        _forget(folder)
        (folder / COUNTED).unlink(missing_ok=True)
    left, known = list(left), counted(folder)
    if left or known["relaxing"]:
        known["rounds"] += len({row.round for row in left}) or 1
        known["sampled"] += sum(row.stage == "sampled" for row in left)
        known["relaxations"] += known["relaxing"]
        _count(folder, known | {"relaxing": 0})


def _count(folder: Path, known: dict[str, int]) -> None:
    files.write(folder / COUNTED, digests.sealed_json(json.dumps(known)))


def finished(folder: Path) -> None:
    """After the last round: what was kept for a round goes, and a count of nothing."""
    _forget(folder)
    if counted(folder) == NOTHING:
        (folder / COUNTED).unlink(missing_ok=True)


def _forget(folder: Path) -> None:
    for name in (RELAXED, BEGUN):
        (folder / name).unlink(missing_ok=True)
    kept_answers.forget(folder)


def kept(relax: Relax, last: Judge | None, folder: Path, settings: dict[str, Any]) -> Relax:
    """Relaxation by the potential and then, if there is one, by the judge, of which a kill loses as little as can be.

    Beside the whole, what the potential left is kept, and each answer of a calculator: one crystal may be under way.
    """
    if last is None:
        return once(relax, folder, settings)
    both = judges.after(once(relax, folder, settings, BEGUN), last, folder)
    whole = once(both, folder, settings, most_under_way=1 if last.potential is None else None)

    def ask(crystals: Dataset, progress: Callable) -> Relaxed:
        found = whole(crystals, progress)
        kept_answers.forget(folder)
        return found

    return ask


def once(
    relax: Relax, folder: Path, settings: dict[str, Any], name: str = RELAXED, most_under_way: int | None = None
) -> Relax:
    """`relax` that keeps its last answer in the folder, and gives it again for the same crystals and settings.

    `most_under_way`: how many relaxations a kill can end; None: all of them.
    """

    def ask(crystals: Dataset, progress: Callable) -> Relaxed:
        if not len(crystals):
            return relax(crystals, progress)
        arrays = {column: getattr(crystals, column) for column in CRYSTALS}
        asked = digests.of_arrays(arrays | {"settings": np.array(json.dumps(settings, sort_keys=True))})
        found = _kept(folder / name, asked, crystals)
        if found is None:
            known = counted(folder)
            _count(folder, known | {"relaxing": min(len(crystals), most_under_way or len(crystals))})
            found = relax(crystals, progress)
            _keep(folder / name, asked, found)
            _count(folder, known)
        return found

    return ask


def _keep(path: Path, asked: str, found: Relaxed) -> None:
    arrays = {f"crystals/{name}": getattr(found.crystals, name) for name in CRYSTALS}
    rest = {name: np.asarray(value) for name, value in found._asdict().items() if name != "crystals"}
    files.write_npz(path, {"asked": np.array(asked)} | arrays | rest)


def _kept(path: Path, asked: str, crystals: Dataset) -> Relaxed | None:
    """The kept answer; none if it is of something else, or damaged: it is simply made again."""
    if not path.exists():
        return None
    try:
        with files.npz(path, "relaxed candidates") as file:
            if str(file["asked"]) != asked:
                return None
            moved = {name: file[f"crystals/{name}"] for name in CRYSTALS}
            rest = {name: file[name] for name in Relaxed._fields if name != "crystals"}
    except files.Damaged:
        return None
    rest["judge_seconds"] = float(rest["judge_seconds"])
    return Relaxed(crystals=Dataset(**vars(crystals) | moved), **rest)

"""Answers of a calculator that judges a round, kept one by one as they come: a kill loses at most the one under way.

Each is a file of its own, written whole and with a digest, under a name that is the digest of the question: the
calculator with its settings, and the crystal. A round that is begun again asks only for what is not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.data import digests, files
from crysjax.data.datasets import Entry
from crysjax.oracles.hosted import Answer, Single

ANSWERS = "judged"

Done = Callable[[int, Answer], None]  # (index, answer)
Ask = Callable[[Sequence[Entry], Done], list[Answer]]


def keeping(ask: Ask, folder: Path, question: Any) -> Ask:
    """`ask` that keeps every answer in the folder as it comes, and gives it again for the same crystal and question.

    A worker that died has not answered: a kill may have ended both, so that this crystal is asked about again.
    """

    def once(rows: Sequence[Entry], done: Done) -> list[Answer]:
        places = [folder / ANSWERS / f"{_digest(row, question)}.npz" for row in rows]
        found = {k: answer for k, place in enumerate(places) if (answer := _kept(place, rows[k])) is not None}
        left = [k for k in range(len(rows)) if k not in found]
        known = len(found)
        if known:
            done(known - 1, found[max(found)])

        def keep(index: int, answer: Answer) -> None:
            if not answer.died:
                _keep(places[left[index]], answer)
            done(known + index, answer)

        found |= dict(zip(left, ask([rows[k] for k in left], keep) if left else []))
        return [found[k] for k in range(len(rows))]

    return once


def forget(folder: Path) -> None:
    """Once a round's relaxations are kept as a whole, or everything begins again."""
    shutil.rmtree(folder / ANSWERS, ignore_errors=True)


def _digest(row: Entry, question: Any) -> str:
    asked = np.array(json.dumps(question, sort_keys=True, default=str))
    return digests.of_arrays({"numbers": row.numbers, "frac": row.frac, "lattice": row.lattice, "question": asked})


def _keep(path: Path, answer: Answer) -> None:
    arrays = {"reason": np.array(answer.reason), "counts": np.array([answer.steps, answer.tries]),
              "seconds": np.array(answer.seconds)}  # fmt: skip
    if answer.crystal is not None:
        arrays |= {name: np.asarray(getattr(answer.crystal, name)) for name in ("numbers", "frac", "lattice")}
    if answer.single is not None:
        arrays |= {name: np.asarray(value) for name, value in answer.single._asdict().items() if value is not None}
    files.write_npz(path, arrays)


def _kept(path: Path, row: Entry) -> Answer | None:
    """The kept answer; none if there is none, or it is damaged: it is simply asked for again."""
    if not path.exists():
        return None
    try:
        with files.npz(path, "an answer of a judge") as file:
            arrays = {name: file[name] for name in file.files}
        return _answer(arrays, row)
    except (files.Damaged, OSError, KeyError, ValueError):
        return None


def _answer(arrays: dict[str, np.ndarray], row: Entry) -> Answer:
    single = crystal = None
    if "energy" in arrays:
        single = Single(float(arrays["energy"]), arrays.get("forces"), arrays.get("stress"))
    if "frac" in arrays:
        crystal = Entry(row.id, arrays["numbers"], arrays["frac"], arrays["lattice"], {})
    steps, tries = arrays["counts"].tolist()
    return Answer(single, crystal, str(arrays["reason"]), steps, tries, float(arrays["seconds"]))

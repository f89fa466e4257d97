"""The steps of relaxations as files, one crystal each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from crysjax.data import datasets, names
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.readers import io

Frames = dict[int, list[Entry]]
"""Row of a data set -> its crystal after each step."""


def recorder(frames: Frames) -> Callable[[np.ndarray, np.ndarray, Dataset], None]:
    """What `relax_dataset` tells of every step: rows that moved, their energies in eV and their crystals."""

    def record(rows: np.ndarray, energy: np.ndarray, now: Dataset) -> None:
        for row, value, entry in zip(rows.tolist(), energy.tolist(), datasets.entries(now)):
            frames.setdefault(row, []).append(entry._replace(properties={"potential_ev": value}))

    return record


def write(frames: Frames, ids: np.ndarray, folder: Path) -> None:
    """`NAME.extxyz` of each crystal."""
    named = names.of_all(ids)
    for row, steps in frames.items():
        io.write_crystals(datasets.from_entries(steps), folder / f"{named[row]}.extxyz")

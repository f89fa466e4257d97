"""`PATH` or `PATH:SPLIT`: a data set, or anything that can be read as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset


def read_part(text: str) -> Dataset:
    """A data set, or anything that `prepare` reads; `PATH:SPLIT` is that split of it."""
    from crysjax.data import datasets
    from crysjax.data.readers import io

    path, split = with_split(text)
    if not path:
        raise ValueError(f"{text!r}: expected PATH or PATH:SPLIT, the path is empty")
    dataset = io.read(path)
    return datasets.where_split(dataset, split) if split else dataset


def with_split(text: str) -> tuple[str, str]:
    path, colon, split = text.rpartition(":")
    return (path, split) if colon and not Path(text).exists() else (text, "")

"""`PATH` or `PATH:SPLIT`: a data set, or anything that can be read as one; or a set that needs no file, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset


def read_part(text: str) -> Dataset:
    """A data set, or anything that `prepare` reads; `PATH:SPLIT` is that split of it.

    `aflow-prototypes` is the set of that name (`readers/prototypes`), unless there is a file of this name.
    """
    from crysjax.data import datasets
    from crysjax.data.readers import io, prototypes

    if needs_no_file(text):
        return prototypes.prototypes()
    path, split = with_split(text)
    if not path:
        raise ValueError(f"{text!r}: expected PATH or PATH:SPLIT, the path is empty")
    dataset = io.read(path)
    return datasets.where_split(dataset, split) if split else dataset


def needs_no_file(text: str) -> bool:
    """Whether the text names a set that comes with the software."""
    from crysjax.data.readers import prototypes

    return text == prototypes.NAME and not Path(text).exists()


def with_split(text: str) -> tuple[str, str]:
    path, colon, split = text.rpartition(":")
    return (path, split) if colon and not Path(text).exists() else (text, "")

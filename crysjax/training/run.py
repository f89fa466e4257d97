"""What a training run is: how it goes, whatever is trained, and a kind of model bound to its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Run(NamedTuple):
    """How a training run goes, whatever is trained."""

    kind: str
    data: str
    properties: list[str]
    train_split: str
    validation_split: str
    steps: int
    tiles: int
    pairs: int
    seed: int
    ema_decay: float
    log_every: int
    save_every: int
    start: str | None


class Task(NamedTuple):
    """A kind of model bound to its data; a batch is `(pack, labels)`, stacked over the tiles of a step."""

    init: Callable[..., Any]  # (key, pack, labels) -> params
    loss: Callable[..., Any]  # (params, key, pack, labels) -> (scalar, metrics)
    stream: Callable[[int], Iterator[tuple]]  # from this step on
    held_out: Callable[[], list[tuple]]  # single packs of the validation split with their labels
    config: dict[str, Any]  # rebuilds the model
    export: Callable[[Path, dict, Any], Path]  # (path, card, params)

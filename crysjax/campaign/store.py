"""What a campaign remembers between rounds, written whole or not at all.

A round is a function of (plan, what was learned before, round number): every key comes from the seed and the round.
So the state of the last finished round is all that a resumed run needs to go on as if it had never stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.data import files, reading

FORMAT = 2  # 2: with the std of what the heads said


def save_state(path: str | Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Path:
    """One `.npz` of arrays with a JSON description (`plan`, `rounds` done, ...)."""
    text = json.dumps({"format": FORMAT, **meta}, sort_keys=True).encode()
    return files.write_npz(path, {"meta": np.frombuffer(text, np.uint8)} | {f"array/{k}": v for k, v in arrays.items()})


def load_state(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_state` wrote; anything else is an error that names the file."""
    with files.npz(path, "the state of a campaign") as file:
        meta = reading.parse_json(bytes(file["meta"]))
        if meta.get("format") != FORMAT:
            raise files.Damaged(path, f"state format {meta.get('format')}, this version reads format {FORMAT}")
        return {k.removeprefix("array/"): file[k] for k in file.files if k != "meta"}, meta


def check_same_plan(path: str | Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """An error that names the first setting that differs: a campaign is resumed with the plan that it began with."""
    for key in sorted(stored.keys() | now.keys()):
        if stored.get(key) != now.get(key):
            raise ValueError(
                f"{path}: this campaign began with {key} = {stored.get(key)!r}, the plan now says {now.get(key)!r}; "
                "choose another --out, or start again with --no-resume"
            )

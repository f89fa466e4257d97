"""What a campaign remembers between rounds, written whole or not at all.

A round is a function of (plan, what was learned before, round number): every key comes from the seed and the round.
So the state of the last finished round is all that a resumed run needs to go on as if it had never stopped.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Write a file that is never seen half done: a full disk or a kill leaves what was there before."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return path


def save_state(path: str | Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Path:
    """One `.npz` of arrays with a JSON description (`plan`, `rounds` done, ...)."""
    text = json.dumps({"format": FORMAT, **meta}, sort_keys=True).encode()
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(text, np.uint8), **{f"array/{k}": v for k, v in arrays.items()})
    return write_atomically(path, buffer.getvalue())


def load_state(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_state` wrote; anything else is an error that names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(bytes(file["meta"]).decode())
            arrays = {k.removeprefix("array/"): file[k] for k in file.files if k != "meta"}
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not the state of a campaign ({error})") from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path}: state format {meta.get('format')}, this version reads format {FORMAT}")
    return arrays, meta


def check_same_plan(path: str | Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """An error that names the first setting that differs: a campaign is resumed with the plan that it began with."""
    for key in sorted(stored.keys() | now.keys()):
        if stored.get(key) != now.get(key):
            raise ValueError(
                f"{path}: this campaign began with {key} = {stored.get(key)!r}, the plan now says {now.get(key)!r}; "
                "choose another --out, or start again with --no-resume"
            )

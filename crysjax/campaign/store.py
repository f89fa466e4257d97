"""What a campaign remembers between rounds, written whole or not at all.

A round is a function of (plan, what was learned before, round number): every key comes from the seed and the round.
So the state of the last finished round is all that a resumed run needs to go on as if it had never stopped. The state
of the round before is kept beside it: where the newest is found damaged, that one round is done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.data import files
from crysjax.data.readers import reading

FORMAT = 2  # 2: with the std of what the heads said
AGAIN = "; start again with --no-resume"


def previous(path: str | Path) -> Path:
    """Where the state of the round before is kept."""
    return Path(path).with_suffix(".previous.npz")


def save_state(path: str | Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Path:
    """One `.npz` of arrays with a JSON description (`plan`, `rounds` done, ...); the one before stays `previous`."""
    if Path(path).exists():
        files.write(previous(path), reading.read_bytes(path))
    text = json.dumps({"format": FORMAT, **meta}, sort_keys=True).encode()
    return files.write_npz(path, {"meta": np.frombuffer(text, np.uint8)} | {f"array/{k}": v for k, v in arrays.items()})


def load_state(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_state` wrote; anything else is an error that names the file."""
    with files.npz(path, "the state of a campaign", AGAIN) as file:
        meta = reading.parse_json(bytes(file["meta"]))
        version = meta.get("format")
        arrays = {k.removeprefix("array/"): file[k] for k in file.files if k != "meta"}
    if version != FORMAT:  # not `Damaged`: the state before it is of the same version
        raise ValueError(f"{path}: state format {version}, this version reads format {FORMAT}{AGAIN}")
    return arrays, meta


def recover(path: str | Path, say: Callable[[str], None]) -> None:
    """If the newest state is damaged or gone, put the previous one in its place and say so; an error without one."""
    try:
        load_state(path)
    except (files.Damaged, FileNotFoundError) as error:
        try:
            _, meta = load_state(previous(path))
        except (OSError, ValueError):
            raise error from None
        what = "damaged" if Path(path).exists() else "gone"
        previous(path).replace(path)
        say(f"{path}: {what}; going on from the state after round {meta['rounds']}")


def forget(path: str | Path) -> None:
    """Remove the states of a campaign; the newest last, for without it the other one says nothing."""
    previous(path).unlink(missing_ok=True)
    Path(path).unlink(missing_ok=True)


def check_same_files(path: str | Path, stored: dict[str, str], now: dict[str, str]) -> None:
    """An error that names the first file of a model that is not the one that the campaign began with (SHA-256)."""
    for name in sorted(stored.keys() | now.keys()):
        if stored.get(name) != now.get(name):
            what = "is new" if name not in stored else "is gone" if name not in now else "has changed"
            raise ValueError(
                f"{path}: {name} {what} since this campaign began; put the former file back, choose another --out, or "
                "start again with --no-resume"
            )


def check_same_plan(path: str | Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """An error that names the first setting that differs: a campaign is resumed with the plan that it began with."""
    for key in sorted(stored.keys() | now.keys()):
        if stored.get(key) != now.get(key):
            raise ValueError(
                f"{path}: this campaign began with {key} = {stored.get(key)!r}, the plan now says {now.get(key)!r}; "
                "choose another --out, or start again with --no-resume"
            )

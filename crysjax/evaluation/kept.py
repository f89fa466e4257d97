"""Verdicts kept on disk, so that an interrupted evaluation goes on where it stopped and gives the same tables.

A kept verdict is used again only if everything it depends on is the same: the key is a digest of the crystals and of
the settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.data import files
from crysjax.data.datasets import Dataset
from crysjax.data.readers import reading
from crysjax.evaluation.stages import Verdict


def digest(*parts: Any) -> str:
    """A digest of data sets, arrays and anything that JSON can hold."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Dataset):
            arrays = (part.num_atoms, part.numbers, part.frac, part.lattice, part.ids.astype(str))
            total.update(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
        elif isinstance(part, np.ndarray):
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
    return total.hexdigest()[:32]


def verdict(path: Path, key: str, make: Callable[[], tuple[Verdict, dict]]) -> tuple[Verdict, dict]:
    """Verdict and cost from `path` if they were kept under this key, else those of `make`, which are then kept."""
    found = _read(path, key)
    if found is None:
        found = make()
        _write(path, key, *found)
    return found


def _read(path: Path, key: str) -> tuple[Verdict, dict] | None:
    if not path.exists():
        return None
    try:
        with files.npz(path, "a kept verdict") as file:
            about = reading.parse_json(bytes(file["about"]))
            if about["key"] != key:
                return None
            columns = {name.removeprefix("column/"): file[name] for name in file.files if name.startswith("column/")}
            found = Verdict(file["passed"], file["reason"], columns, about["level"], file["asked"])
            return found, about["cost"]
    except files.Damaged:
        return None  # cut short: it is simply made again


def _write(path: Path, key: str, found: Verdict, cost: dict) -> None:
    about = json.dumps({"key": key, "level": found.level, "cost": cost})
    arrays = {"about": np.frombuffer(about.encode(), np.uint8), "passed": found.passed, "asked": found.asked}
    columns = {f"column/{name}": values for name, values in found.columns.items()}
    files.write_npz(path, arrays | {"reason": found.reason.astype(str)} | columns)

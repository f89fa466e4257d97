"""The hull of all entries in files and folders, each of one level of theory."""

from __future__ import annotations

from pathlib import Path

from crysjax.data.readers.part import read_part
from crysjax.physics.hull.hull import Hull, Level


def read_hull(paths: list[str]) -> Hull:
    """The hull of all entries in these files and folders."""
    import numpy as np

    from crysjax.chemistry.levels import one_level
    from crysjax.physics.hull import hull

    parts = [_entries(text) for text in paths]
    counts, energies, names = (np.concatenate([part[k] for part in parts]) for k in range(3))
    lost = int(np.isnan(energies).sum())
    without = f", {lost} of them without an energy" if lost else ""
    source = f"{', '.join(Path(p).name for p in paths)} ({len(names)} entries{without})"
    level = one_level(map(_level, paths), "--hull")
    return hull.hull(counts, energies, level=level, source=source, names=names)


def _level(text: str) -> Level:
    """The level that a table of entries names; whatever names none is MP-20's."""
    from crysjax.physics.hull import hull

    named = hull.read_level(text) if Path(text).suffix in (".csv", ".json") else None
    return named or hull.MATERIALS_PROJECT_2021


def _entries(text: str) -> tuple:
    from crysjax.physics.hull import hull

    path = Path(text)
    if not text:
        raise ValueError("--hull: empty; expected a path")
    if path.is_dir():
        return hull.read_cache(path)
    if path.suffix in (".json", ".csv"):
        return hull.read_entries(path)
    return hull.dataset_entries(read_part(text))

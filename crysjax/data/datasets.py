"""A data set in memory and as one compact file: crystals of any size with properties, splits and provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMAT = 1


@dataclass(frozen=True)
class Dataset:
    """`m` crystals; the sites of all are concatenated, crystal `i` owns `num_atoms[i]` of them. Host NumPy arrays."""

    ids: np.ndarray  # (m,) str
    num_atoms: np.ndarray  # (m,) int32
    numbers: np.ndarray  # (sites,) uint8 atomic numbers
    frac: np.ndarray  # (sites, 3) float32 in [0, 1)
    lattice: np.ndarray  # (m, 3, 3) float32 rows a, b, c in Å
    properties: dict[str, np.ndarray]  # name -> (m,) float32, NaN = missing; the name carries the unit
    split: np.ndarray  # (m,) str: "train", "val", "test" or ""
    provenance: dict  # where each part came from, which entries were skipped and why

    def __len__(self) -> int:
        return len(self.num_atoms)


def offsets(dataset: Dataset) -> np.ndarray:
    """First site of each crystal, and the total at the end: (m + 1,)."""
    return np.concatenate([[0], np.cumsum(dataset.num_atoms)]).astype(np.int64)


def site_index(dataset: Dataset, index: np.ndarray) -> np.ndarray:
    """The sites of the crystals `index`, in that order."""
    start, count = offsets(dataset)[:-1][index], dataset.num_atoms[index]
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + within


def take(dataset: Dataset, index: np.ndarray) -> Dataset:
    """The crystals `index` (integers or a boolean mask), in that order."""
    index = np.asarray(index)
    index = np.flatnonzero(index) if index.dtype == bool else index
    sites = site_index(dataset, index)
    properties = {k: v[index] for k, v in dataset.properties.items()}
    return Dataset(dataset.ids[index], dataset.num_atoms[index], dataset.numbers[sites], dataset.frac[sites],
                   dataset.lattice[index], properties, dataset.split[index], dataset.provenance)  # fmt: skip


def where_split(dataset: Dataset, split: str) -> Dataset:
    """The part of a data set that carries the split name; an error names the splits that exist."""
    found = dataset.split == split
    if not found.any():
        names = sorted(set(dataset.split.tolist()))
        raise ValueError(f"split: no crystal is in {split!r}; the data set has {names}")
    return take(dataset, found)


def concatenate(parts: list[Dataset]) -> Dataset:
    """One data set out of several; a property that one part lacks is missing (NaN) there."""
    names = sorted({name for part in parts for name in part.properties})
    missing = [np.full(len(part), np.nan, np.float32) for part in parts]
    properties = {k: np.concatenate([p.properties.get(k, nan) for p, nan in zip(parts, missing)]) for k in names}
    fields = (np.concatenate([getattr(p, f) for p in parts]) for f in ("ids", "num_atoms", "numbers", "frac", "lattice"))
    provenance = {"parts": [part.provenance for part in parts]}
    return Dataset(*fields, properties, np.concatenate([p.split for p in parts]), provenance)


def save(dataset: Dataset, path: str | Path) -> Path:
    """Write one compressed `.npz`; nothing in it needs unpickling."""
    arrays = {f"property/{k}": v for k, v in dataset.properties.items()}
    arrays |= {f: getattr(dataset, f) for f in ("ids", "num_atoms", "numbers", "frac", "lattice", "split")}
    meta = json.dumps({"format": FORMAT, "provenance": dataset.provenance})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(partial, meta=np.frombuffer(meta.encode(), np.uint8), **arrays)
    partial.replace(path)  # a full disk or Ctrl-C leaves the previous file whole
    return path


def load(path: str | Path) -> Dataset:
    """Read what `save` wrote; anything else is an error that names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(bytes(file["meta"]).decode())
            arrays = {name: file[name] for name in file.files if name != "meta"}
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a crysjax data set ({error}); make one with `crysjax data prepare`") from None
    if meta["format"] != FORMAT:
        raise ValueError(f"{path}: data format {meta['format']}, this version reads format {FORMAT}")
    properties = {k.removeprefix("property/"): v for k, v in arrays.items() if k.startswith("property/")}
    core = (arrays[f] for f in ("ids", "num_atoms", "numbers", "frac", "lattice"))
    return Dataset(*core, properties, arrays["split"], meta["provenance"])

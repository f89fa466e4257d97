"""A data set in memory and as one compact file: crystals of any size with properties, splits and provenance."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, formula
from crysjax.data import files
from crysjax.data.entry import (  # noqa: F401 (handed on: a data set and its entries belong together)
    ENERGY,
    FORCES,
    STRESS,
    Entry,
    SourceRow,
    checked,
    held,
    sound,
    wrap,
)
from crysjax.data.readers import limits, reading
from crysjax.geometry.soundness import LEAST_VOLUME_ANGSTROM3

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
    site_properties: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (sites, ...) float32, NaN = missing

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getitem__(self, index: int | slice | list | np.ndarray) -> Dataset:
        """Some of the crystals, by number, slice, list or mask, as a data set; beyond its end is an `IndexError`."""
        return take(self, np.atleast_1d(np.arange(len(self))[index]))

    def __repr__(self) -> str:
        named = ", ".join([*self.properties, *(f"{name} of sites" for name in self.site_properties)])
        crystals = "1 crystal" if len(self) == 1 else f"{len(self)} crystals"
        return f"Dataset({crystals}, {len(self.numbers)} atoms; {f'properties: {named}' if named else 'no properties'})"


def from_entries(entries: Iterable[Entry], *, split: str | list[str] = "", provenance: dict | None = None) -> Dataset:
    """A data set of checked entries; a property that an entry lacks is NaN there."""
    entries = [checked(entry) for entry in entries]
    if not entries:
        raise ValueError("a data set needs at least one crystal, got none")
    names = sorted({name for entry in entries for name in entry.properties})
    properties = {k: _column(k, entries) for k in names}
    of_sites = _joined_sites([entry.site_properties for entry in entries], [len(e.numbers) for e in entries])
    return Dataset(
        ids=np.array([entry.id for entry in entries]),
        num_atoms=np.array([len(entry.numbers) for entry in entries], np.int32),
        numbers=np.concatenate([entry.numbers for entry in entries]).astype(np.uint8),
        frac=np.concatenate([entry.frac for entry in entries]),
        lattice=np.stack([entry.lattice for entry in entries]).astype(np.float32),
        properties=properties,
        split=np.array([split] * len(entries) if isinstance(split, str) else split),
        provenance=provenance or {},
        site_properties=of_sites,
    )


def _column(name: str, entries: list[Entry]) -> np.ndarray:
    """A property as float32, NaN where an entry lacks it; a number that float32 cannot hold is an error."""
    values = np.array([entry.properties.get(name, np.nan) for entry in entries], np.float64)
    beyond = np.isfinite(values) & (np.abs(values) > np.finfo(np.float32).max)
    if beyond.any():
        first = int(beyond.argmax())
        raise ValueError(f"{name} of {entries[first].id!r} is {values[first]:g}: beyond the range of float32")
    return values.astype(np.float32)


def _joined_sites(parts: list[dict[str, np.ndarray]], sizes: list[int]) -> dict[str, np.ndarray]:
    """Site properties of several parts, one after another; where a part lacks one its sites are NaN."""
    like = {name: np.asarray(values) for part in parts for name, values in part.items()}
    columns = {}
    for name, example in like.items():
        rest = example.shape[1:]
        rows = [part.get(name, np.full((n, *rest), np.nan)) for part, n in zip(parts, sizes)]
        columns[name] = np.concatenate(rows).astype(np.float32)
    return columns


def entries(dataset: Dataset) -> list[Entry]:
    """Every crystal by itself, in order."""
    start = offsets(dataset)
    sites = (slice(a, b) for a, b in itertools.pairwise(start))
    return [
        Entry(
            str(dataset.ids[i]),
            dataset.numbers[s],
            dataset.frac[s],
            dataset.lattice[i],
            {k: float(v[i]) for k, v in dataset.properties.items()},
            {k: v[s] for k, v in dataset.site_properties.items()},
        )
        for i, s in enumerate(sites)
    ]


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
    of_sites = {k: v[sites] for k, v in dataset.site_properties.items()}
    return Dataset(dataset.ids[index], dataset.num_atoms[index], dataset.numbers[sites], dataset.frac[sites],
                   dataset.lattice[index], properties, dataset.split[index], dataset.provenance, of_sites)  # fmt: skip


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
    fields = (
        np.concatenate([getattr(p, f) for p in parts]) for f in ("ids", "num_atoms", "numbers", "frac", "lattice")
    )
    provenance = {"parts": [part.provenance for part in parts]}
    of_sites = _joined_sites([p.site_properties for p in parts], [len(p.numbers) for p in parts])
    return Dataset(*fields, properties, np.concatenate([p.split for p in parts]), provenance, of_sites)


def save(dataset: Dataset, path: str | Path) -> Path:
    """Write one `.npz`."""
    arrays = {f"property/{k}": v for k, v in dataset.properties.items()}
    arrays |= {f"site/{k}": v for k, v in dataset.site_properties.items()}
    arrays |= {f: getattr(dataset, f) for f in ("ids", "num_atoms", "numbers", "frac", "lattice", "split")}
    meta = json.dumps({"format": FORMAT, "provenance": dataset.provenance})
    return files.write_npz(path, {"meta": np.frombuffer(meta.encode(), np.uint8)} | arrays)


def load(path: str | Path) -> Dataset:
    """Read what `save` wrote. The file may come from anywhere: its arrays are checked before anything uses them.

    Raises:
        ValueError: anything else, with the file and, where it is one crystal's fault, which.
    """
    with files.npz(path, "a crysjax data set", "; make one with `crysjax data prepare`") as file:
        meta = reading.parse_json(bytes(file["meta"]))
        if meta["format"] != FORMAT:
            raise files.Damaged(path, f"data format {meta['format']}, this version reads format {FORMAT}")
        of_crystals, of_sites = (
            {name.removeprefix(kind): file[name] for name in file.files if name.startswith(kind)}
            for kind in ("property/", "site/")
        )
        core = [file[f] for f in ("ids", "num_atoms", "numbers", "frac", "lattice", "split")]
        dataset = Dataset(*core[:5], of_crystals, core[5], dict(meta["provenance"]), of_sites)
        _refuse_shapes(dataset)
        _refuse_values(dataset)
        return dataset


def _refuse_shapes(dataset: Dataset) -> None:
    """An error for arrays that are not of the right kind, or that do not belong together."""
    count = dataset.num_atoms
    m, sites = count.size, int(count.sum(dtype=np.int64)) if count.dtype.kind in "iu" else -1
    expected = [("ids", "U", (m,)), ("split", "U", (m,)), ("num_atoms", "iu", (m,)), ("lattice", "f", (m, 3, 3)),
                ("numbers", "iu", (sites,)), ("frac", "f", (sites, 3))]  # fmt: skip
    arrays = [(name, getattr(dataset, name), kinds, shape) for name, kinds, shape in expected]
    arrays += [(name, a, "f", (m,)) for name, a in dataset.properties.items()]
    arrays += [(name, a, "f", (sites, *a.shape[1:])) for name, a in dataset.site_properties.items()]
    for name, array, kinds, shape in arrays:
        if array.dtype.kind not in kinds or array.shape != shape:
            raise ValueError(f"{limits.shown(name)} holds {array.dtype} of shape {array.shape}; expected {shape}")
    if not m or m > limits.ENTRIES or len(dataset.properties) > limits.PROPERTIES:
        raise ValueError(f"{m} crystals with {len(dataset.properties)} properties")
    if count.min() < 1:
        raise ValueError("a crystal without sites")
    limits.refuse_sites(int(count.max()))


def _refuse_values(dataset: Dataset) -> None:
    """An error that names the first crystal which is none: the bounds of `entry.sound`, for all crystals at once."""
    frac, cell = dataset.frac.astype(np.float64), dataset.lattice.astype(np.float64)
    with np.errstate(all="ignore"):
        far, flat = np.abs(frac) > limits.FRACTION, np.abs(np.linalg.det(cell)) < LEAST_VOLUME_ANGSTROM3
    of_crystals = [
        ("a cell that is not finite", ~np.isfinite(cell).all((1, 2))),
        (f"a cell of less than {LEAST_VOLUME_ANGSTROM3:g} Å³", flat),
        (f"a cell vector beyond {limits.CELL_ANGSTROM:g} Å", (np.abs(cell) > limits.CELL_ANGSTROM).any((1, 2))),
        (f"an id of more than {limits.ID_CHARACTERS} characters", np.char.str_len(dataset.ids) > limits.ID_CHARACTERS),
        *((f"an infinite {limits.shown(name)}", _infinite(a)) for name, a in dataset.properties.items()),
    ]
    of_sites = [
        (f"atomic numbers beyond 1..{len(SYMBOLS)}", (dataset.numbers < 1) | (dataset.numbers > len(SYMBOLS))),
        ("positions that are not finite", ~np.isfinite(frac).all(-1)),
        (f"a fractional coordinate beyond {limits.FRACTION:g}", far.any(-1)),
        *((f"an infinite {limits.shown(name)}", _infinite(a)) for name, a in dataset.site_properties.items()),
    ]
    owner = np.repeat(np.arange(len(dataset)), dataset.num_atoms)
    for said, wrong in [*of_crystals, *((said, np.isin(np.arange(len(dataset)), owner[w])) for said, w in of_sites)]:
        if wrong.any():
            row = int(wrong.argmax())
            size = (
                f" ({abs(np.linalg.det(cell[row])) / dataset.num_atoms[row]:.3g} Å³ per atom)" if "cell" in said else ""
            )
            raise ValueError(f"crystal {row} ({limits.shown(str(dataset.ids[row]))}) has {said}{size}")


def _infinite(values: np.ndarray) -> np.ndarray:
    """Rows with an infinite number; NaN means missing."""
    return np.isinf(values).reshape(len(values), -1).any(-1)


def info(dataset: Dataset) -> dict:
    """What a data set holds: counts a split, sizes, elements, the range of every property, provenance."""
    names, count = np.unique(dataset.split, return_counts=True)
    found, sites = np.unique(dataset.numbers, return_counts=True)
    volume = np.abs(np.linalg.det(dataset.lattice.astype(np.float64)))
    return {
        "crystals": len(dataset),
        "splits": {str(k) or "(none)": int(c) for k, c in zip(names, count)},
        "atoms": _range(dataset.num_atoms),
        "volume_a3_per_atom": _range(volume / dataset.num_atoms),
        "elements": {SYMBOLS[z - 1]: int(c) for z, c in zip(found, sites)},
        "compositions": len({formula(entry.numbers) for entry in entries(dataset)}),
        "properties": {k: _range(v) for k, v in dataset.properties.items()},
        "site_properties": {k: _range(v) for k, v in dataset.site_properties.items()},
        "provenance": dataset.provenance,
    }


def _range(values: np.ndarray) -> dict:
    """Count of known values, smallest, median, largest."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return {"known": 0}
    numbers = {"min": known.min(), "median": np.median(known), "max": known.max()}
    return {"known": len(known)} | {k: round(float(v), 6) for k, v in numbers.items()}

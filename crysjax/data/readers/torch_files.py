"""Samples that CDVAE, DiffCSP, FlowMM and their kin save with `torch.save`, read without torch and without unpickling.

Such a file is a pickle of a dict whose tensors point into storages: members `data/N` of a zip archive, or, before
torch 1.6, bytes after the pickle. The pickle goes through `pickles.load`, which calls nothing. The only globals with a
meaning are tensors, storages and ordered dicts; a few that these programs save beside their samples (the settings, a
batch of PyTorch Geometric) are let pass as inert names; any other is refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from crysjax.data.readers import archives, pickles
from crysjax.data.readers.layouts import read_arrays
from crysjax.data.readers.lazy import Lazy, failing

PICKLE_BYTES = 20_000_000
"""Of the pickle alone, without the numbers of its tensors: a file of samples has some kilobytes."""

NUMBERS = 100_000_000
"""Of a list of tensors: they may all be the same one, so that the size of the file bounds nothing."""

_DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}  # fmt: skip
_ARRAYS = ("num_atoms", "atom_types", "frac_coords", "lengths", "angles", "lattices")
_INERT = ("argparse.Namespace", "torch.device", "torch_geometric.")  # a dot at the end: everything below
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storage(NamedTuple):
    """The flat numbers of one or more tensors."""

    values: np.ndarray
    bfloat16: bool


class Tensor(NamedTuple):
    """A view into a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch(name: str, data: bytes) -> Iterator[Lazy]:
    """Every crystal of every evaluation; of several evaluations crystal `i` of number `e` has the id `i-evaluation-e`.

    The dict holds `num_atoms` (m,), `atom_types` (sites,), `frac_coords` (sites, 3) and `lengths` in Å with `angles`
    in degrees (m, 3), or `lattices` (m, 3, 3), each with a leading axis of evaluations or without.
    """
    known = tensors(data)
    if "num_atoms" not in known:
        raise ValueError(f"no samples of crystals: needs tensors {', '.join(_ARRAYS[:5])}; has {sorted(known)}")
    if "lengths" in known and "angles" in known:
        vectors = known.pop("lattices", np.zeros(0))
        if vectors.shape == (*known["lengths"].shape, 3):  # lengths and angles do not say which hand a cell has
            known["left_handed"] = np.linalg.det(vectors.astype(float)) < 0
    count = known["num_atoms"]
    if count.ndim == 1:
        yield from read_arrays(known, "")
        return
    if count.ndim != 2 or len({len(a) if a.ndim else 0 for a in known.values()}) != 1:
        raise ValueError(f"shapes that do not belong together: { {k: a.shape for k, a in known.items()} }")
    for e in range(len(count)):
        label = f"-evaluation-{e}" if len(count) > 1 else ""
        yield from _evaluation({k: a[e] for k, a in known.items()}, label)


def _evaluation(arrays: dict[str, np.ndarray], label: str) -> Iterator[Lazy]:
    """The crystals of one evaluation; one that does not hold together leaves the others readable."""
    try:
        for name, split, parse in read_arrays(arrays, ""):
            yield name + label, split, partial(_labeled, parse, label)
    except ValueError as error:
        yield label.lstrip("-"), "", partial(failing, error)


def _labeled(parse: Callable, label: str):
    entry = parse()
    return entry._replace(id=entry.id + label)


def tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of samples in a saved dict; whatever else it holds is left out. bfloat16 becomes float32."""
    saved = _from_zip(data) if data[:2] == b"PK" else _from_legacy(data)
    if not isinstance(saved, dict):
        raise ValueError(f"a saved {type(saved).__name__}; expected a dict of tensors")
    arrays = {k: _array(saved[k]) for k in _ARRAYS if isinstance(saved.get(k), Tensor)}
    stacked = {k: _stacked(saved[k]) for k in _ARRAYS if isinstance(saved.get(k), list | tuple)}
    return arrays | {k: v for k, v in stacked.items() if v is not None}


def _stacked(values: list | tuple) -> np.ndarray | None:
    """A list of tensors of one shape as an array: one an evaluation."""
    if not values or not all(isinstance(v, Tensor) and v.shape == values[0].shape for v in values):
        return None
    if len(values) * math.prod(values[0].shape) > NUMBERS:
        raise ValueError(f"a list of tensors with more than {NUMBERS} numbers")
    return np.stack([_array(v) for v in values])


def _from_zip(data: bytes) -> object:
    """torch's format since 1.6: `NAME/data.pkl` and `NAME/data/N`."""
    with archives.opened(data) as archive:
        names = {info.filename: info for info in archive.infolist()}
        main = next((name for name in names if name.endswith("/data.pkl")), None)
        if main is None:
            raise ValueError("no file of torch.save: data.pkl is missing from the archive")
        root = main.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archives.member(archive, names[f"{root}byteorder"]) != b"little":
            raise ValueError("tensors in big-endian order, which are not read")
        if names[main].file_size > PICKLE_BYTES:
            raise ValueError(f"a pickle of {names[main].file_size} bytes; at most {PICKLE_BYTES} are read")

        storages: dict[str, Storage] = {}

        def persistent(reference: object) -> Storage:
            key, dtype, numel = _reference(reference)
            if key not in storages:
                raw = archives.member(archive, names[f"{root}data/{key}"])
                storages[key] = _storage(raw, dtype, numel)
            return storages[key]

        return pickles.load(io.BytesIO(archives.member(archive, names[main])), _apply, persistent)


def _from_legacy(data: bytes) -> object:
    """The format before 1.6: magic, version, system, the pickle, the names of the storages, then their bytes."""
    file, storages = io.BytesIO(data), {}

    def persistent(reference: object) -> Storage:
        key, dtype, numel = _reference(reference)
        if key not in storages:
            if not 0 <= numel <= len(data):
                raise ValueError(f"cut short or damaged: a storage of {numel} numbers in {len(data)} bytes")
            storages[key] = _storage(bytes(np.dtype(_DTYPES[dtype]).itemsize * numel), dtype, numel, writeable=True)
        return storages[key]

    if not data or pickles.load(file, _apply, persistent) != _LEGACY_MAGIC:
        raise ValueError("no file of torch.save: neither its zip archive nor the format before torch 1.6")
    if pickles.load(file, _apply, persistent) != _LEGACY_PROTOCOL:
        raise ValueError("an unknown version of the format before torch 1.6")
    pickles.load(file, _apply, persistent)  # sizes of C types on the machine that wrote it
    saved = pickles.load(file, _apply, persistent)
    for key in pickles.load(file, _apply, persistent):
        _fill(storages[key].values, file)
    return saved


def _fill(values: np.ndarray, file: io.BytesIO) -> None:
    """A storage from its place in the file: the count of its numbers, then the numbers."""
    if int.from_bytes(file.read(8), "little") != len(values):
        raise ValueError("cut short or damaged: a storage of another size than announced")
    raw = file.read(values.nbytes)
    if len(raw) != values.nbytes:
        raise ValueError("cut short or damaged: a storage is incomplete")
    values[:] = np.frombuffer(raw, values.dtype)


def _reference(reference: object) -> tuple[str, str, int]:
    """(key, storage type, count) of a persistent id `("storage", type, key, device, count, ...)`."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    kind, key, numel = reference[1], reference[2], reference[4]
    dtype = kind.name.rpartition(".")[2] if isinstance(kind, pickles.Global) else ""
    if dtype not in _DTYPES or not isinstance(key, str) or not isinstance(numel, int):
        raise ValueError(f"a storage of {kind}; expected one of {', '.join(_DTYPES)}")
    return key, dtype, numel


def _storage(raw: bytes, dtype: str, numel: int, writeable: bool = False) -> Storage:
    values = np.frombuffer(raw, _DTYPES[dtype])
    if len(values) != numel:
        raise ValueError(f"cut short or damaged: a storage of {numel} numbers has {len(values)}")
    return Storage(values.copy() if writeable else values, dtype == "BFloat16Storage")


def _apply(name: str, arguments: tuple) -> object:
    """What a pickle may apply; nothing here is looked up by name outside this function."""
    if name == "torch._utils._rebuild_tensor_v2":
        return _tensor(*arguments[:4])
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name == "collections.OrderedDict":
        return {}
    if name == "torch.Size":
        return arguments[0]
    if any(name == known or (known.endswith(".") and name.startswith(known)) for known in _INERT):
        return pickles.Inert(name)
    raise ValueError(f"refused: the pickle asks for {name[:100]}, which is no part of a file of samples")


def _tensor(storage: object, offset: object, shape: object, stride: object) -> Tensor:
    """A view that stays inside its storage and is no larger than it."""
    whole = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 8
    if not isinstance(storage, Storage) or not whole:
        raise ValueError("a damaged tensor")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *stride)):
        raise ValueError("a damaged tensor: negative or broken sizes")
    size = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride)) if size else 0
    if size > max(len(storage.values), 1) or (size and last >= len(storage.values)):
        raise ValueError(f"a tensor of shape {shape} in a storage of {len(storage.values)} numbers")
    return Tensor(storage, offset, shape, stride)


def _array(tensor: Tensor) -> np.ndarray:
    values = tensor.storage.values
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, values.dtype)
    steps = tuple(s * values.itemsize for s in tensor.stride)
    array = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps, writeable=False).copy()
    return (array.astype("<u4") << np.uint32(16)).view("<f4") if tensor.storage.bfloat16 else array

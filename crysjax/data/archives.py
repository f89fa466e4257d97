"""Zip archives of structure files, and arrays in `.npz`, read in memory: nothing is extracted, nothing is trusted.

The sizes that an archive announces are checked before a byte is unpacked, and no member is unpacked beyond what it
announced, so that a bomb is refused by its own directory. Names of members are only names: with `..` or `/` in front
they lead nowhere.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from crysjax.data import limits
from crysjax.data.lazy import Lazy, Reader, failing

MEMBERS = 200_000
"""Members of one archive; ten times the largest published set of samples."""

_UNZIPPING = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NESTED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".npz", ".pt", ".pth")
_HEADER_BYTES = 20_000  # NumPy refuses to parse a header beyond 10,000
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def opened(source: Path | bytes) -> zipfile.ZipFile:
    """The archive, its directory checked against `limits`; an error says what is wrong with it."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        archive = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (zipfile.BadZipFile, zlib.error, EOFError, OverflowError, NotImplementedError, UnicodeError) as error:
        raise ValueError(f"the file is cut short or damaged (no zip archive: {error})") from None
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"{len(members)} members; at most {MEMBERS} are read")
    limits.refuse_bomb(sum(member.file_size for member in members), size)
    return archive


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one member, never more than its directory entry announces."""
    limits.refuse_bomb(info.file_size, max(info.compress_size, 1))
    if info.compress_type not in _METHODS or info.flag_bits & 1:
        raise ValueError("encrypted, or packed by a method other than deflate")
    try:
        return archive.read(info)
    except _UNZIPPING as error:
        raise ValueError(f"the file is cut short or damaged ({error})") from None


def read_zip(path: Path, reader_of: Callable[[str], Reader | None]) -> Iterator[Lazy]:
    """Every member that `reader_of` has a reader for, in the order of the archive; other files are passed over.

    An id is the member's name without folders and suffix, or all of it where two would be alike. Of MatterGen's
    `generated_trajectories.zip` only the last step of each trajectory is a sample, and only that is read.
    """
    with opened(path) as archive:
        chosen = [(info, reader) for info in archive.infolist() if (reader := _reader(info, reader_of))]
        if not chosen:
            raise ValueError("no structure file in this archive")
        stems = Counter(PurePosixPath(info.filename).stem for info, _ in chosen)
        for info, reader in chosen:
            place = PurePosixPath(info.filename)
            name = place.stem if stems[place.stem] == 1 else info.filename
            lazy = _members(name, archive, info, reader)
            yield from _last(lazy) if "trajector" in path.name.lower() else lazy


def _reader(info: zipfile.ZipInfo, reader_of: Callable[[str], Reader | None]) -> Reader | None:
    place = PurePosixPath(info.filename)
    if info.is_dir() or "__MACOSX" in place.parts or place.name.startswith("."):
        return None
    return _refused if place.name.lower().endswith(_NESTED) else reader_of(place.name)


def _refused(name: str, data: bytes) -> Iterator[Lazy]:
    raise ValueError("an archive within an archive is not read")


def _members(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, reader: Reader) -> Iterator[Lazy]:
    """The entries of one member; if it is damaged, one entry that says so."""
    try:
        yield from reader(name, b"" if reader is _refused else member(archive, info))
    except Exception as error:  # one bad member is a reason, and no reason to leave the others
        yield name, "", partial(failing, error)


def _last(lazy: Iterator[Lazy]) -> Iterator[Lazy]:
    """The last entry alone."""
    yield from deque(lazy, maxlen=1)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; pickled objects and headers that announce more than there is are refused."""
    with opened(path) as archive:
        found = {info.filename.removesuffix(".npy"): member(archive, info) for info in archive.infolist()}
    return {name: array(name, data) for name, data in found.items()}


def refuse_arrays(path: Path) -> None:
    """An error if an array of an `.npz` file announces more than there is; only headers are unpacked."""
    with opened(path) as archive:
        for info in archive.infolist():
            limits.refuse_bomb(info.file_size, max(info.compress_size, 1))
            try:
                with archive.open(info) as file:
                    start = file.read(_HEADER_BYTES)
            except _UNZIPPING as error:
                raise ValueError(f"the file is cut short or damaged ({error})") from None
            _header(info.filename, io.BytesIO(start), info.file_size)


def array(name: str, data: bytes) -> np.ndarray:
    """One `.npy` file. The header is believed only where the bytes are there."""
    file = io.BytesIO(data)
    _header(name, file, len(data))
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _header(name: str, file: io.BytesIO, size: int) -> None:
    """An error unless the header of an array of numbers or texts fits the size of the file."""
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise ValueError(f"array {name!r} is cut short or damaged ({error})") from None
    if dtype.hasobject or dtype.kind not in "biufcSU":
        raise ValueError(f"array {name!r} holds pickled objects or records, which are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"array {name!r} announces {shape} of {dtype}, and {size - file.tell()} bytes follow")

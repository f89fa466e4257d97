"""Zip archives and the arrays of `.npz` files, unpacked in memory within bounds.

The sizes that an archive announces are checked before a byte is unpacked, and no member is unpacked beyond what it
announced, so that a bomb is refused by its own directory.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from crysjax.data.readers import limits, reading

MEMBERS = 200_000
"""Members of one archive; ten times the largest published set of samples."""

_UNZIPPING = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def opened(source: Path | BinaryIO | bytes, ratio: int = limits.RATIO) -> zipfile.ZipFile:
    """The archive, its directory checked against `limits`; an error says what is wrong with it."""
    if isinstance(source, str | Path):
        reading.opened(source).close()  # no pipe: what is opened by its name is closed with the archive
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, OverflowError, NotImplementedError, UnicodeError) as error:
        raise ValueError(f"the file is cut short or damaged (no zip archive: {error})") from None
    size, members = archive.fp.seek(0, io.SEEK_END), archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"{len(members)} members; at most {MEMBERS} are read")
    limits.refuse_bomb(sum(member.file_size for member in members), size, ratio)
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


@dataclass(frozen=True)
class Arrays:
    """The arrays of an open `.npz` file by name, each unpacked when it is asked for."""

    archive: zipfile.ZipFile

    @property
    def files(self) -> list[str]:
        """Names of the arrays, in the order of the file."""
        return [name.removesuffix(".npy") for name in self.archive.namelist()]

    def __getitem__(self, name: str) -> np.ndarray:
        if f"{name}.npy" not in self.archive.namelist():
            raise KeyError(f"{name} is not a file in the archive")
        return array(name, member(self.archive, self.archive.getinfo(f"{name}.npy")))


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; pickled objects and headers that announce more than there is are refused."""
    with opened(path) as archive:
        found = {info.filename.removesuffix(".npy"): member(archive, info) for info in archive.infolist()}
    return {name: array(name, data) for name, data in found.items()}


def array(name: str, data: bytes) -> np.ndarray:
    """One `.npy` file. The header is believed only where the bytes are there."""
    file = io.BytesIO(data)
    _refuse_header(name, file, len(data))
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that the `.npy` header at this place of a file announces; its numbers are what follows."""
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise ValueError(f"cut short or damaged ({error})") from None
    if dtype.hasobject or dtype.kind not in "biufcSU":
        raise ValueError("it holds pickled objects or records, which are not read")
    return shape, dtype


def _refuse_header(name: str, file: io.BytesIO, size: int) -> None:
    """An error unless the header of an array of numbers or texts fits the size of the file."""
    try:
        shape, dtype = header(file)
    except ValueError as error:
        raise ValueError(f"array {name!r}: {error}") from None
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"array {name!r} announces {shape} of {dtype}, and {size - file.tell()} bytes follow")

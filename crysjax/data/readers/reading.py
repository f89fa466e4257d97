"""The one way to open, read and parse a file that a user names: regular files alone, whole, up to a size.

A pipe or a device may never end, so it is not opened. Whatever is wrong with a file is a ValueError of one line that
names it. Bounds are those of `limits`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from crysjax.data.readers import limits

_CHUNK = 1 << 20
_KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
          stat.S_ISSOCK: "a socket"}  # fmt: skip


def opened(path: str | Path) -> BinaryIO:
    """A regular file, opened for reading in binary.

    Raises:
        ValueError: a pipe, a socket or a device.
        OSError: nothing is there, it is a folder, or it may not be read.
    """
    _refuse_endless(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # nothing blocks if it was exchanged since
    try:
        _refuse_endless(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_endless(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind := _kind(mode):
        raise ValueError(f"{path}: is {kind}; expected a regular file")


def _kind(mode: int) -> str:
    """What something is that is no regular file; "" for one that is."""
    return next((name for test, name in _KINDS.items() if test(mode)), "")


def other_kind(path: str | Path) -> str:
    """`is a pipe`, `is a folder` and such for what is no regular file; "" for one that is, or for nothing at all."""
    try:
        kind = _kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return ""
    return f"is {kind}" if kind else ""


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """All bytes of a regular file; more than `most` (`limits.BYTES` if not given) are an error."""
    most = limits.BYTES if most is None else most
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > most else file.read(size + 1)
        while len(data) > size and len(data) <= most and (more := file.read(_CHUNK)):
            data += more  # it grows while it is read, or its size is not known, as in /proc
    if max(size, len(data)) > most:
        hint = " (CRYSJAX_MAX_BYTES raises this)" if most == limits.BYTES else ""
        raise ValueError(f"{path}: {max(size, len(data))} bytes; at most {most} are read{hint}")
    return data


def read_text(path: str | Path, most: int | None = None) -> str:
    """The text of a regular file, unpacked if the name ends in `.gz`."""
    return about(path, lambda: limits.text(_unpacked(path, most)))


def read_json(path: str | Path, most: int | None = None) -> Any:
    """The value in a JSON file, unpacked if the name ends in `.gz`; what is no JSON is a ValueError with its name."""
    return about(path, lambda: parse_json(limits.text(_unpacked(path, most))))


def parse_json(string: str | bytes) -> Any:
    """The value of a JSON text; what is malformed or nested too deep is a ValueError."""
    try:
        return json.loads(string, parse_int=_whole)
    except RecursionError:
        raise ValueError("JSON nested deeper than any file of use is") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON, or cut short: {error.msg}, line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError("no JSON: not a text in UTF-8") from None


def _whole(digits: str) -> int | float:
    """What JavaScript makes of a very long whole number: a float, infinite beyond 1e308, which no check lets pass."""
    return int(digits) if len(digits) <= limits.DIGITS else float(digits)


def digest(path: str | Path) -> str:
    """The SHA-256 of a regular file, read in pieces."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if the name ends in `.gz`; more than `BYTES`, or a bomb, is an error."""
    return _unpacked(path, None)


def _unpacked(path: str | Path, most: int | None) -> bytes:
    data = read_bytes(path, most)
    return limits.gunzip(data) if Path(path).name.lower().endswith(".gz") else data


def about(path: str | Path, read: Callable[[], Any]) -> Any:
    """What `read` returns; its errors name the file."""
    try:
        return read()
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(f"{path}: ") else f"{path}: {said}") from None

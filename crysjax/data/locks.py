"""One process a folder: locks that the system takes back when a process dies, however it dies.

`flock` is kept by an open file, so that a lock outlives neither its process nor a restart of the machine. On a system
or a file system without it nothing is locked, and that is said.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)  # the file system has no locks

_mine: dict[Path, int] = {}  # folders that this process has locked -> how often


class Busy(ValueError):
    """Another process has what one would lock."""


@contextmanager
def held(descriptor: int) -> Iterator[bool]:
    """Lock an open file for the block and close it after; `Busy` if another process has it. False: no locks here."""
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("another process has it") from None
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return False
    return True


@contextmanager
def folder(path: str | Path) -> Iterator[None]:
    """The folder is this process's alone for the block; it is made if need be, and goes again if nothing came into it.

    Raises:
        Busy: one line, if another process writes there. Reading needs no lock.
    """
    path = Path(path)
    made = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    real = path.resolve()
    try:
        with ExitStack() as stack:
            if real not in _mine:  # a second lock of one process would wait for its first
                stack.enter_context(_file(path))
            _mine[real] = _mine.get(real, 0) + 1
            stack.callback(_release, real)
            yield
    finally:
        with suppress(OSError):  # one that holds something stays, and so do those around it
            for place in made:
                place.rmdir()


def _release(real: Path) -> None:
    _mine[real] -= 1
    if not _mine[real]:
        del _mine[real]


@contextmanager
def _file(path: Path) -> Iterator[None]:
    place = path / NAME
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        with ExitStack() as stack:
            try:
                works = stack.enter_context(held(descriptor))
            except Busy:
                raise Busy(f"{path}: another process is writing there; wait for it or name another folder") from None
            if not _same(place, descriptor):
                continue  # its former owner has just removed it: another process could lock a new one
            if not works:
                warnings.warn(f"{path}: this file system has no locks; start one run at a time there", stacklevel=5)
            try:
                yield
            finally:
                place.unlink(missing_ok=True)
            return


def _same(place: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(place.stat(), os.fstat(descriptor))
    return False

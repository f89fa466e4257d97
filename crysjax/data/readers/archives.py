"""Zip archives of structure files, read in memory: nothing is extracted, nothing is trusted (`zipped.py`).

Names of members are only names: with `..` or `/` in front they lead nowhere.
"""

from __future__ import annotations

import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from crysjax.data.readers.lazy import Lazy, Reader, failing
from crysjax.data.readers.zipped import array, arrays, member, opened  # noqa: F401 (handed on)

_NESTED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".npz", ".pt", ".pth")


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

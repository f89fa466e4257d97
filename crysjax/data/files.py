"""How files are written, whole or not at all, and how `.npz` files are read, with one clear error for damaged ones."""

from __future__ import annotations

import csv
import ctypes
import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from crysjax.data import digests, locks
from crysjax.data.readers import limits, reading, zipped

PARTIAL = ".partial"  # how the names of what is being written end


class Damaged(ValueError):
    """A file that is cut short, or is not what its name says; `skipped` holds rows of file, entry and reason."""

    def __init__(self, path: str | Path, reason: str, skipped: list[dict] | None = None):
        super().__init__(f"{path}: {reason}")
        self.skipped = skipped or [{"file": Path(path).name, "entry": "", "reason": reason}]


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """The folder is this process's alone for the block (`locks.folder`); what killed runs left half written goes."""
    with locks.folder(folder):
        for depth in ("", "*/", "*/*/"):
            for partial in Path(folder).glob(f"{depth}.*{PARTIAL}"):
                _forget(partial)
        yield


def _forget(partial: Path) -> None:
    """Remove a partial file or folder, unless it is being written."""
    with suppress(OSError, locks.Busy), _in_use(partial) as locked:
        if locked:  # without locks nobody can tell
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _in_use(partial: Path) -> AbstractContextManager[bool]:
    """A lock that lasts as long as the writer of a partial file or folder."""
    return nullcontext(False) if os.name == "nt" else locks.held(os.open(partial, os.O_RDONLY))


@contextmanager
def whole(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """A path to write a file to, or an empty folder to fill, which becomes `path` at the end of the block.

    A full disk, an error, Ctrl-C or a kill leaves what was there before, and nothing half done: the block has a hidden
    file or folder of its own, of a random name, made exclusively. Errors name `path`.
    """
    path = Path(path)
    kind = reading.other_kind(path)
    if kind and not path.is_dir():  # it would be replaced by a file: as root, /dev/null too
        raise ValueError(f"{path}: {kind}; expected a place for a file")
    if path.parent.name.endswith(PARTIAL):  # of a folder that is written whole itself
        yield path
        return
    partial = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir() if folder else partial.touch(exist_ok=False)
        with _in_use(partial):
            yield partial
            for place in (*sorted(partial.rglob("*")), partial):
                _to_disk(place)
            _take_place(partial, path)
        _to_disk(path.parent)
    except OSError as error:
        raise _named(error, path, partial) from None
    finally:
        with suppress(OSError):  # the former folder, where the two have exchanged their names
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def _take_place(new: Path, old: Path) -> None:
    """Rename; a folder takes the place of one that is not empty, which stays until then and is called `new` after."""
    if not (new.is_dir() and old.is_dir()):
        new.replace(old)
    elif not _exchanged(new, old):
        aside = new.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
        old.replace(aside)
        new.replace(old)
        aside.replace(new)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names at once, as Linux can; False where it cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write(path: str | os.PathLike, data: bytes | str) -> Path:
    """One file of these bytes, or of this text in UTF-8."""
    with whole(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(path)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> Path:
    """One compressed `.npz` with a digest of itself at its end; nothing in it needs unpickling."""
    buffer = io.BytesIO()  # a zip file that meets a full disk halfway is past closing in order
    np.savez_compressed(buffer, **arrays)
    return write(path, digests.sealed(buffer.getvalue()))


def csv_text(header: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A table as text; whatever a cell holds, a reader of CSV gets it back."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """For files that grow: errors of writing do not say of their own accord which file they are about."""
    try:
        yield
    except OSError as error:
        raise _named(error, Path(path)) from None


def _named(error: OSError, path: Path, partial: Path | None = None) -> OSError:
    other = error.filename and (partial is None or not str(error.filename).startswith(str(partial)))
    return error if other else OSError(error.errno, error.strerror or str(error), str(path))


def _to_disk(path: Path) -> None:
    with suppress(OSError) if path.is_dir() else nullcontext():  # not every system can do it for a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def npz(path: str | Path, what: str, hint: str = "") -> Iterator[zipped.Arrays]:
    """The arrays of an `.npz` file that should be `what`; `Damaged` if they cannot be read, then or in the block.

    A file that carries a digest (`write_npz`) is checked against it; one that carries none is read as it is.
    """
    try:
        with reading.opened(path) as file:
            if file.read(2) != b"PK":
                raise ValueError("it is no .npz file")
            digests.check(file)
            with zipped.opened(file, limits.OWN_RATIO) as archive:
                yield zipped.Arrays(archive)
    except Damaged:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise Damaged(path, f"not {what} ({str(said).removeprefix(f'{path}: ')[:300]}){hint}") from None

"""How files are written, whole or not at all, and how `.npz` files are read, with one clear error for damaged ones."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from crysjax.data import limits, reading, zipped


class Damaged(ValueError):
    """A file that is cut short, or is not what its name says; `skipped` holds rows of file, entry and reason."""

    def __init__(self, path: str | Path, reason: str, skipped: list[dict] | None = None):
        super().__init__(f"{path}: {reason}")
        self.skipped = skipped or [{"file": Path(path).name, "entry": "", "reason": reason}]


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path to write a file or folder to, which becomes `path` at the end of the block.

    A full disk, an error or Ctrl-C leaves what was there before, and nothing half done. Errors name `path`.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # a folder cannot take the place of one that is not empty
        else:
            _to_disk(partial)
        partial.replace(path)
    except OSError as error:
        raise _named(error, path, partial) from None
    finally:
        with suppress(OSError):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def write(path: str | Path, data: bytes | str) -> Path:
    """One file of these bytes, or of this text in UTF-8."""
    with whole(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(path)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> Path:
    """One compressed `.npz`; nothing in it needs unpickling."""
    buffer = io.BytesIO()  # a zip file that meets a full disk halfway is past closing in order
    np.savez_compressed(buffer, **arrays)
    return write(path, buffer.getvalue())


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
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def npz(path: str | Path, what: str, hint: str = "") -> Iterator[zipped.Arrays]:
    """The arrays of an `.npz` file that should be `what`; `Damaged` if they cannot be read, then or in the block."""
    try:
        with reading.opened(path) as file:
            if file.read(2) != b"PK":
                raise ValueError("it is no .npz file")
            with zipped.opened(file, limits.OWN_RATIO) as archive:
                yield zipped.Arrays(archive)
    except Damaged:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise Damaged(path, f"not {what} ({str(said).removeprefix(f'{path}: ')[:300]}){hint}") from None

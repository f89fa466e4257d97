"""How much a file may ask for: bounded reading, decoding, and what an entry must hold to enter a data set.

Files come from strangers. Every bound is a count or a size that is known before the work is done, never a clock, so the
same file is read or refused on every machine.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crysjax.data.datasets import FORCES, Entry, checked

SITES = int(os.environ.get("CRYSJAX_MAX_SITES", 2_000))
"""Sites a crystal. The largest in the Materials Project has 444; parsers and packs are quadratic in this number."""

BYTES = int(os.environ.get("CRYSJAX_MAX_BYTES", 1_000_000_000))
"""Bytes of one file in memory, unpacked if it is packed. MP-20 as CSV has 0.1 GB; text takes about four times this."""

RATIO = 200
"""Unpacked over packed bytes. Structure files pack 3 to 20 times; deflate ends at 1,032, which only padding reaches."""

SMALL_BYTES = 100_000_000
"""Below this size any ratio passes: it is unpacked in under a second, and tables of one repeated value are honest."""

ENTRIES = 2_000_000
"""Entries a file, counted before they are read: twenty times the largest set in use."""

ID_CHARACTERS = 256
"""Ids are stored at the width of the longest: one id of a megabyte would cost a megabyte a crystal."""

PROPERTIES = 1_000
"""Different properties in one file; each is a column as long as the data set."""

CELL_ANGSTROM = 10_000.0
"""Length of a cell vector: 1 µm, where float32 positions are off by 1e-3 Å."""

FRACTION = 1e6
"""Magnitude of a fractional coordinate: beyond it float64 digits of the place within the cell are lost."""

_CHUNK = 1 << 20
_FLOAT32 = float(np.finfo(np.float32).max)


def contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if the name ends in `.gz`; more than `BYTES`, or a bomb, is an error."""
    size = path.stat().st_size
    if size > BYTES:
        raise ValueError(f"{size} bytes; at most {BYTES} are read (CRYSJAX_MAX_BYTES raises this)")
    return gunzip(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()


def gunzip(packed: bytes) -> bytes:
    """Every member of a gzip stream, unpacked in pieces and given up at the first piece that is too much."""
    parts, size, rest = [], 0, packed
    while rest:
        stream = zlib.decompressobj(wbits=31)
        while rest and not stream.eof:
            try:
                parts.append(stream.decompress(rest, _CHUNK))
            except zlib.error as error:
                raise ValueError(f"cut short or damaged (gzip: {error})") from None
            rest = stream.unconsumed_tail if not stream.eof else stream.unused_data.lstrip(b"\0")
            size += len(parts[-1])
            refuse_bomb(size, len(packed))
            if not rest and not stream.eof and not parts[-1]:
                break
        if not stream.eof:
            raise ValueError("cut short or damaged (the gzip stream has no end)")
    return b"".join(parts)


def refuse_bomb(unpacked: int, packed: int) -> None:
    """An error if this many bytes out of that many are more than an honest file unpacks to."""
    if unpacked > BYTES:
        raise ValueError(f"unpacks to more than {BYTES} bytes (CRYSJAX_MAX_BYTES raises this)")
    if unpacked > max(SMALL_BYTES, RATIO * packed):
        raise ValueError(f"unpacks to more than {RATIO} times its {packed} bytes")


def text(data: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 with its byte-order mark; stray bytes of older encodings are replaced."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            decoded = data.decode("utf-16")
        except UnicodeDecodeError:
            raise ValueError("not text: starts like UTF-16, but is not") from None
    else:
        decoded = data.decode("utf-8-sig", errors="replace")
    if "\0" in decoded:
        raise ValueError("not text: it holds zero bytes (binary, or UTF-16 without a byte-order mark)")
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def lines(string: str) -> Iterator[str]:
    """Lines as files have them: `str.splitlines` also breaks at form feeds and the like, where no parser does."""
    return iter(string.split("\n"))


def refuse_sites(count: int) -> None:
    """An error for more sites than a crystal may have."""
    if count > SITES:
        raise ValueError(f"{count} sites; at most {SITES} a crystal are read (CRYSJAX_MAX_SITES raises this)")


def sound(entry: Entry) -> Entry:
    """A checked entry that a data set can hold: whole numbers of real elements, finite, of bounded size."""
    numbers = np.asarray(entry.numbers)
    refuse_sites(len(numbers))
    if numbers.dtype.kind not in "iuf" or (numbers.dtype.kind == "f" and not (numbers == np.floor(numbers)).all()):
        raise ValueError("atomic numbers are not whole numbers")
    if len(entry.id) > ID_CHARACTERS:
        raise ValueError(f"an id of {len(entry.id)} characters; at most {ID_CHARACTERS} are kept")
    entry = checked(entry._replace(numbers=numbers, lattice=_real(entry.lattice), frac=_far(_real(entry.frac))))
    if (longest := np.abs(entry.lattice).max()) > CELL_ANGSTROM:
        raise ValueError(f"a cell vector of {longest:.3g} Å; at most {CELL_ANGSTROM:g} Å are read")
    return entry._replace(
        properties={k: float(v) for k, v in entry.properties.items()},
        site_properties={k: _of_sites(k, v, len(numbers)) for k, v in entry.site_properties.items()},
    )


def _real(values) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise ValueError(f"positions or cell are not numbers ({array.dtype})")
    return array.astype(float)


def _far(frac: np.ndarray) -> np.ndarray:
    if frac.size and np.abs(frac[np.isfinite(frac)]).max(initial=0) > FRACTION:
        raise ValueError(f"a fractional coordinate beyond {FRACTION:g}")
    return frac


def held(entry: Entry) -> Entry:
    """The entry; an error for a property that float32 does not hold. NaN, which is missing, passes."""
    for name, value in entry.properties.items():
        if abs(value) > _FLOAT32:
            raise ValueError(f"{name} is {value:g}; a data set holds numbers up to {_FLOAT32:.3g} (float32)")
    return entry


def _of_sites(name: str, values: np.ndarray, count: int) -> np.ndarray:
    array = _real(values)
    if array.shape[:1] != (count,) or (name == FORCES and array.shape != (count, 3)) or np.isinf(array).any():
        raise ValueError(f"{name}: shape {array.shape} for {count} sites, or not finite")
    if (np.abs(array[np.isfinite(array)]) > _FLOAT32).any():
        raise ValueError(f"{name}: {np.nanmax(np.abs(array)):g} is beyond the range of float32")
    return array

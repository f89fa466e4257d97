"""How much a file or a number may ask for, and decoding within these bounds. `reading` opens files by them.

Files come from strangers. Every bound is a count or a size that is known before the work is done, never a clock, so the
same file is read or refused on every machine.
"""

from __future__ import annotations

import math
import os
import sys
import zlib
from collections.abc import Iterator
from typing import Any

SITES = int(os.environ.get("CRYSJAX_MAX_SITES", 2_000))
"""Sites a crystal. The largest in the Materials Project has 444; parsers and packs are quadratic in this number."""

BYTES = int(os.environ.get("CRYSJAX_MAX_BYTES", 1_000_000_000))
"""Bytes of one file in memory, unpacked if it is packed. MP-20 as CSV has 0.1 GB; text takes about four times this."""

RATIO = 200
"""Unpacked over packed bytes. Structure files pack 3 to 20 times; deflate ends at 1,032, which only padding reaches."""

SMALL_BYTES = 100_000_000
"""Below this size any ratio passes: it is unpacked in under a second, and tables of one repeated value are honest."""

OWN_RATIO = 20
"""The same for the package's own files: weights and positions are noise, and pack 1 to 4 times."""

SETTINGS_BYTES = 1_000_000
"""Bytes of a file of settings; the longest plan in use has 1 kB, and YAML takes 10 s a megabyte."""

FIELD_CHARACTERS = 100_000_000
"""Characters of one field of a table: a structure in a column of a CSV has some thousands."""

DIGITS = 30
"""Digits of a whole number in JSON that stays one; 64 bits have 19. Longer ones are read as floats."""

TOLERANCE_ANGSTROM = 2.0
"""Largest tolerance of positions: neighboring atoms are 1 to 3 Å apart, and beyond that all atoms are alike."""

ENTRIES = 2_000_000
"""Entries a file, counted before they are read: twenty times the largest set in use."""

ID_CHARACTERS = 256
"""Ids are stored at the width of the longest: one id of a megabyte would cost a megabyte per crystal."""

PROPERTIES = 1_000
"""Different properties in one file; each is a column as long as the data set."""

CELL_ANGSTROM = 10_000.0
"""Length of a cell vector: 1 µm, where float32 positions are off by 1e-3 Å."""

FRACTION = 1e6
"""Magnitude of a fractional coordinate: beyond it float64 digits of the place within the cell are lost."""

_CHUNK = 1 << 20


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


def refuse_bomb(unpacked: int, packed: int, ratio: int = RATIO) -> None:
    """An error if this many bytes out of that many are more than an honest file unpacks to."""
    if unpacked > BYTES:
        raise ValueError(f"unpacks to more than {BYTES} bytes (CRYSJAX_MAX_BYTES raises this)")
    if unpacked > max(SMALL_BYTES, ratio * packed):
        raise ValueError(f"unpacks to more than {ratio} times its {packed} bytes")


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


def shown(value: Any, most: int = 100) -> str:
    """A value in an error message: its `repr`, cut off after `most` characters."""
    try:
        said = repr(value)
    except ValueError:  # Python writes no whole number of more digits
        return f"a value of more than {sys.get_int_max_str_digits()} digits"
    return said if len(said) <= most else f"{said[:most]}..."


def tolerance(name: str, angstrom: float) -> float:
    """A tolerance of positions in Å as compiled code may get it: finite, positive, at most `TOLERANCE_ANGSTROM`."""
    value = float(angstrom)
    if not (math.isfinite(value) and 0 < value <= TOLERANCE_ANGSTROM):
        raise ValueError(f"{name}: {value:g} Å; expected a tolerance above 0, at most {TOLERANCE_ANGSTROM:g} Å")
    return value

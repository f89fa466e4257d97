"""Digests of data at rest: what was written is what is read, or the file is called damaged.

A zip file (`.npz`) carries the SHA-256 of itself as the comment at its end, where every reader of zips passes over it;
a JSON object carries that of its text as its last key;
a folder carries a file that lists those of its files; a file of another program's format, which has no place for one,
gets a file `NAME.sha256` beside it. What carries no digest, such as a file of an older version or of another program,
is read as it is.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from crysjax.data.readers import reading

LIST, BESIDE = "digests.json", ".sha256"
_SAYS = b"crysjax sha256 "
_SEAL = len(_SAYS) + 64
_NO_COMMENT, _LENGTH = struct.pack("<H", 0), struct.pack("<H", _SEAL)
_END = b"PK\x05\x06"  # begins the last 22 bytes before the comment; the last two of them are its length
_BLOCK = 1 << 20
JSON_KEY = "crysjax_sha256"
_BEFORE, _AFTER = f',\n "{JSON_KEY}": "'.encode(), b'"\n}'
_DAMAGED = "the file is damaged: its contents are not those that were written"
_CHANGED = f"{_DAMAGED}; get it again, or remove its key {JSON_KEY!r} if it was edited or reformatted on purpose"
_NEARLY = 0.7  # of `difflib`: a key that has lost up to five of its characters is still known


def sealed(zipped: bytes) -> bytes:
    """The bytes of a zip file, which has no comment, with the digest of all of them as its comment."""
    if not zipped.endswith(_NO_COMMENT):
        raise ValueError("the zip file has a comment already")
    return zipped[:-2] + _LENGTH + _SAYS + hashlib.sha256(zipped).hexdigest().encode()


def check(file: BinaryIO) -> None:
    """An error for a zip file that is not what its digest says; `file` is left at its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _SEAL - len(_END) - 18, 0))
    tail = file.read()
    file.seek(0)
    found, end = tail.rfind(_END), tail[-_SEAL - 2 :]
    if found >= 0 and int.from_bytes(tail[found + 20 : found + 22], "little") != len(tail) - found - 22:
        raise ValueError(_DAMAGED)  # the comment is cut short
    if sum(a == b for a, b in zip(end[2:], _SAYS)) < len(_SAYS) - 3:
        return  # it carries none, not even a damaged one
    total, left = hashlib.sha256(), size - _SEAL - 2
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        total.update(block)
        left -= len(block)
    total.update(_NO_COMMENT)
    file.seek(0)
    if end != _LENGTH + _SAYS + total.hexdigest().encode():
        raise ValueError(_DAMAGED)


def sealed_json(text: str) -> bytes:
    """The text of a JSON object that is not empty, with the digest of all of it but its last brace as its last key."""
    body = text.rstrip().encode()
    if not body.endswith(b"}") or len(body := body[:-1].rstrip()) < 2:
        raise ValueError("expected a JSON object with at least one key")
    return body + _BEFORE + hashlib.sha256(body).hexdigest().encode() + _AFTER


def parse_json(data: str | bytes) -> Any:
    """The value of a JSON text without its digest; an error where it is not what its digest says."""
    text = (data.encode() if isinstance(data, str) else data).rstrip()
    body, seal = text[: -len(_BEFORE) - 64 - len(_AFTER)], text[-len(_BEFORE) - 64 - len(_AFTER) :]
    said = seal[: len(_BEFORE)] + seal[-len(_AFTER) :]
    carries = len(said) == len(_BEFORE + _AFTER) and sum(a != b for a, b in zip(said, _BEFORE + _AFTER)) <= 3
    if carries and seal != _BEFORE + hashlib.sha256(body).hexdigest().encode() + _AFTER:
        raise ValueError(_CHANGED)
    found = reading.parse_json(data)
    if carries:
        del found[JSON_KEY]
    if isinstance(found, dict) and any(map(_nearly_key, found)):
        raise ValueError(_CHANGED)  # the digest is not at the end, not in its form, or its key has lost a piece
    return found


def _nearly_key(key: str) -> bool:
    """Whether a key is that of the digest, or what damage has left of it."""
    near = abs(len(key) - len(JSON_KEY)) <= 5
    return near and difflib.SequenceMatcher(None, key, JSON_KEY, autojunk=False).ratio() >= _NEARLY


def read_json(path: str | Path) -> Any:
    """The value in a JSON file as `parse_json` has it; errors name the file."""
    return reading.about(path, lambda: parse_json(reading.read_text(path)))


def beside(path: str | Path) -> Path:
    """Where the digest of a file is that cannot carry one itself; `sha256sum --check` reads it too."""
    return Path(path).with_name(Path(path).name + BESIDE)


def beside_text(path: str | Path, data: bytes) -> str:
    """What `beside` says of these bytes."""
    return f"{hashlib.sha256(data).hexdigest()}  {Path(path).name}\n"


def check_beside(path: str | Path, known: str = "") -> None:
    """An error for a file that is not what the digest beside it says, or else what is `known` of it; none: no error."""
    listed = beside(path)
    said = reading.read_text(listed).split() if listed.is_file() else []
    if listed.is_file() and not said:
        raise ValueError(f"{listed}: expected a SHA-256")
    expected = known or (said[0] if said else "")
    if expected and reading.digest(path) != expected:
        raise ValueError(f"{_DAMAGED} (by SHA-256); get it again")


def write_list(folder: str | Path) -> Path:
    """`digests.json` of all files in a folder and in those within."""
    listed = json.dumps(_files(Path(folder)), indent=1, sort_keys=True)
    path = Path(folder) / LIST
    path.write_text(f"{hashlib.sha256(listed.encode()).hexdigest()}\n{listed}")
    return path


def check_list(folder: str | Path) -> bool:
    """Whether a folder has a list; an error that names the first file that is not as the list says."""
    path = Path(folder) / LIST
    if not path.exists():
        return False
    own, _, listed = reading.read_bytes(path).partition(b"\n")
    if own != hashlib.sha256(listed).hexdigest().encode():
        raise ValueError(f"{path}: {_DAMAGED}")
    expected, found = reading.parse_json(listed), _files(Path(folder))
    for name, digest in expected.items():
        if found.get(name) != digest:
            raise ValueError(f"{path.parent / name}: {_DAMAGED if name in found else 'the file is missing'}")
    return True


def _files(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / LIST)
    return {p.relative_to(folder).as_posix(): reading.digest(p) for p in files}


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape} ".encode("utf-8", "surrogatepass"))
        total.update(array.tobytes())
    return total.hexdigest()


def of_dataset(dataset: Any) -> str:
    """SHA-256 of a `datasets.Dataset`: crystals, ids and labels; not of splits and provenance."""
    arrays = {name: getattr(dataset, name) for name in ("num_atoms", "numbers", "frac", "lattice")}
    arrays |= {f"property/{name}": values for name, values in dataset.properties.items()}
    arrays |= {f"site/{name}": values for name, values in dataset.site_properties.items()}
    ids = "\0".join(map(str, dataset.ids)).encode("utf-8", "surrogatepass")
    return of_arrays(arrays | {"ids": np.frombuffer(ids, np.uint8)})

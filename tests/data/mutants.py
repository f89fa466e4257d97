"""Seeded mutations of files, inside what is packed too: for test_hostile.py."""

import gzip
import io
import random
import re
import zipfile


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


_NUMBER = re.compile(rb"-?\d+\.?\d*")
NUMBERS = (
    b"nan",
    b"inf",
    b"-inf",
    b"1e400",
    b"-0",
    b"0",
    b"-1",
    b"1e30",
    b"99999999999999999999",
    b"",
    b"2.5",
    b"\xff",
)
SYMBOLS = (b"Xx", b"D", b"Fe3+", b"Og", b"", b"X", b"0", b"\xe9", b"\xf0\x9f\x92\xa3")


def _spot(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _truncated(rng, data):
    return data[: _spot(rng, data)]


def _flipped(rng, data):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 30)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _renumbered(rng, data):
    found = list(_NUMBER.finditer(data))
    for match in sorted(rng.sample(found, min(len(found), rng.choice((1, 1, 2, 8)))), key=lambda m: -m.start()):
        data = data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]
    return data


def _resymboled(rng, data):
    return data.replace(rng.choice((b"Na", b"Cl", b"O ", b"H")), rng.choice(SYMBOLS), rng.choice((1, -1)))


def _relined(rng, data):
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.choice(("drop", "double", "swap", "blank", "join"))
    if what == "swap":
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i : i + 1] = {"drop": [], "double": [lines[i]] * 3, "blank": [b""], "join": [lines[i] * 2]}[what]
    return b"\n".join(lines)


def _inserted(rng, data):
    at = _spot(rng, data)
    return data[:at] + rng.choice((b"\0", b"'", b'"', b"\n;\n", b"loop_\n", b"[", b"{", bytes(range(256)))) + data[at:]


MUTATIONS = (_truncated, _flipped, _renumbered, _resymboled, _relined, _inserted)


def mutated(rng: random.Random, name: str, data: bytes) -> bytes:
    """One mutation; of what is packed, of a member half the time, so that it passes the checksums."""
    packed = name.endswith((".zip", ".npz", ".pt"))
    if packed and rng.random() < 0.7:
        members = unzipped(data)
        inner = rng.choice(sorted(members))
        return zipped(members | {inner: rng.choice(MUTATIONS)(rng, members[inner])})
    if name.endswith(".gz") and rng.random() < 0.7:
        return gzip.compress(rng.choice(MUTATIONS)(rng, gzip.decompress(data)))
    binary = packed or name.endswith((".gz", ".db"))
    return rng.choice((_truncated, _flipped, _renumbered) if binary else MUTATIONS)(rng, data)

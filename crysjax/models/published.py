"""Models that their own projects publish: where, under which license, and the digest that they must have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_NEQUIX = "https://github.com/atomicarchitects/nequix/raw"


class Published(NamedTuple):
    """A model that its own project publishes."""

    address: str
    sha256: str
    license: str


PUBLISHED = {
    "nequix-mp-1": Published(
        f"{_NEQUIX}/7c2854de8e754b1a60274c7d9d2e014989ed632e/models/nequix-mp-1.nqx",
        "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee",
        "MIT",
    ),
    "nequix-oam-1-pft": Published(
        f"{_NEQUIX}/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models/nequix-oam-1-pft.nqx",
        "4ce693d68886512aab50c84ea2400efd68163e11155f7c7babe98e695177e809",
        "MIT",
    ),
}


def check(path: Path) -> None:
    """An error for a pulled file under a published name that is not what was published."""
    from crysjax.data import digests

    if path.parent == pulled_folder() and path.stem in PUBLISHED:
        try:
            digests.check_beside(path, PUBLISHED[path.stem].sha256)
        except ValueError as error:
            raise ValueError(f"{path}: {error} by `crysjax models pull {path.stem}`") from None


def card(path: Path) -> dict:
    """What is known of a published model: a file of Nequix begins with its settings."""
    from crysjax.data.readers import limits, reading

    sha256 = reading.digest(path)
    origin = next((m._asdict() for m in PUBLISHED.values() if m.sha256 == sha256), {"sha256": sha256})
    with reading.opened(path) as file:
        try:
            return origin | {"settings": reading.parse_json(file.readline(limits.SETTINGS_BYTES))}
        except ValueError:
            raise ValueError(f"{path}: not a whole Nequix potential") from None


def pulled_folder() -> Path | None:
    """Where `crysjax models pull` puts files: $CRYSJAX_MODELS, or a folder in the home directory, if any."""
    if os.environ.get("CRYSJAX_MODELS"):
        return Path(os.environ["CRYSJAX_MODELS"])
    try:
        return Path.home() / ".local" / "share" / "crysjax" / "models"
    except RuntimeError:  # a user without a home, as containers have them: there are the shipped models
        return None

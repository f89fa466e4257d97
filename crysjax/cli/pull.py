"""`crysjax models pull`: published weights, checked by their SHA-256 before they are used."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import typer

from crysjax.cli import registry
from crysjax.cli.show import say

_NEQUIX = "https://github.com/atomicarchitects/nequix/raw"


class Published(NamedTuple):
    """A model that its own project publishes."""

    address: str
    sha256: str
    licence: str


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


def pull(
    name: str = typer.Argument(help="A model that `models list` names."),
    source: Path | None = typer.Option(None, "--from", help="Take this file instead of downloading."),
) -> None:
    """Get a published model: downloaded from its project's address, or taken from a file, and checked."""
    from crysjax.data import files

    if name not in PUBLISHED:
        raise ValueError(f"{name!r} is not published; expected {registry.choice(name, PUBLISHED)}")
    model, folder = PUBLISHED[name], registry.pulled_folder()
    if folder is None:
        raise ValueError("there is no home directory to keep models in; set CRYSJAX_MODELS to a folder")
    data = _fetch(model.address) if source is None else source.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise ValueError(f"{source or model.address}: SHA-256 is {found}, expected {model.sha256}; nothing was kept")
    target = files.write(folder / f"{name}{Path(model.address).suffix}", data)
    say(f"{target}: {name}, licence {model.licence}")


def card(path: Path) -> dict:
    """What is known of a published model: a file of Nequix begins with its settings."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = next((m._asdict() for m in PUBLISHED.values() if m.sha256 == sha256), {"sha256": sha256})
    with path.open("rb") as file:
        try:
            return origin | {"settings": json.loads(file.readline())}
        except ValueError:
            raise ValueError(f"{path}: not a whole Nequix potential") from None


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{address}: cannot be downloaded ({reason}); fetch it elsewhere and use --from FILE"
        ) from None

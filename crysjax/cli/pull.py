"""`crysjax models pull`: published weights, checked by their SHA-256 before they are used."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import typer

from crysjax.cli import registry

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
    if name not in PUBLISHED:
        raise ValueError(f"{name!r} is not published; expected {registry.choice(name, PUBLISHED)}")
    model = PUBLISHED[name]
    target = registry.pulled_folder() / f"{name}{Path(model.address).suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        _fetch(model.address, partial) if source is None else shutil.copyfile(source, partial)
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found != model.sha256:
            raise ValueError(
                f"{source or model.address}: SHA-256 is {found}, expected {model.sha256}; nothing was kept"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{target}: {name}, licence {model.licence}")


def _fetch(address: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{address}: cannot be downloaded ({reason}); fetch it elsewhere and use --from FILE"
        ) from None

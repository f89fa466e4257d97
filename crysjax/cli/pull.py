"""`crysjax models pull`: published weights, checked by their SHA-256 before they are used."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import typer

from crysjax.models import registry
from crysjax.models.published import PUBLISHED, pulled_folder
from crysjax.terminal import say

MODEL_BYTES, DOWNLOAD_SECONDS = 500_000_000, 1800.0  # the largest published potentials have 0.1 GB


def pull(
    name: str = typer.Argument(help="A model that `models list` offers; with --from also a new name of your own."),
    source: Path | None = typer.Option(None, "--from", help="Take this file (.npz, .nqx) instead of downloading."),
) -> None:
    """Get a published model, checked by its SHA-256, or keep weights of your own under a name."""
    from crysjax.data.readers import reading

    if name not in PUBLISHED:
        say(_kept(name, source))
        return
    model, folder = PUBLISHED[name], _folder()  # nothing is downloaded that has no place
    data = _fetch(model.address) if source is None else reading.read_bytes(source, MODEL_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        own = "; weights of your own need another name" if source else ""
        raise ValueError(
            f"{source or model.address}: SHA-256 is {found}, expected {model.sha256}; nothing was kept{own}"
        )
    target = _write(folder / f"{name}{Path(model.address).suffix}", data)
    say(f"{target}: {name}, license {model.license}")


def _folder() -> Path:
    if (folder := pulled_folder()) is None:
        raise ValueError("there is no home directory to keep models in; set CRYSJAX_MODELS to a folder")
    return folder


def _kept(name: str, source: Path | None) -> str:
    """Weights of the user's own, which have to be a model that this package reads, under a name that is free."""
    from crysjax.data.readers import reading

    if name in registry.installed():
        raise ValueError(f"{name!r} is here already ({registry.model_path(name)}); expected a name that is free")
    if source is None:
        raise ValueError(f"{name!r} is not published; expected {registry.choice(name, PUBLISHED)}, or --from FILE")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", name):
        raise ValueError(f"{name!r}: expected a name of letters, digits and _ . + -, at most 100 of them")
    if source.suffix not in registry.PULLED:
        raise ValueError(f"{source}: expected a model's file, {' or '.join(registry.PULLED)}")
    kind = registry.readable(source)
    data = reading.read_bytes(source, MODEL_BYTES)
    target = _write(_folder() / f"{name}{source.suffix}", data)
    return f"{target}: {name}, a model of kind {kind}, SHA-256 {hashlib.sha256(data).hexdigest()}"


def _write(path: Path, data: bytes) -> Path:
    """The file, with its digest beside it where its format holds none."""
    from crysjax.data import digests, files

    if path.suffix == ".nqx":
        files.write(digests.beside(path), digests.beside_text(path, data))
    return files.write(path, data)


def _fetch(address: str) -> bytes:
    from crysjax.data.readers import downloads

    try:
        return downloads.fetch(address, most=MODEL_BYTES, seconds=DOWNLOAD_SECONDS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{address}: cannot be downloaded ({reason}); fetch it elsewhere and use --from FILE"
        ) from None

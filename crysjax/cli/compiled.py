"""Compiled programs are kept between commands, so that a second run does not compile again what the first one did.

JAX's persistent cache keys an entry by the program, the versions and the processor; an entry that cannot be read is
compiled anew. Entries are packed by zlib, whose checksum notices what changed on the disk. Where `zstandard` is
installed JAX would take that and write no checksum: of 30 entries with a flipped byte, 19 unpacked to other programs.
`JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

_WITHOUT_CHECKSUM = ("zstandard", "compression.zstd")  # as JAX calls them

MOST_BYTES = 1_000_000_000  # the entries that were not used for longest are removed beyond it


def keep_compiled(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set JAX's cache up, where the user has not and there is a folder to write to; before JAX is imported."""
    for name in _WITHOUT_CHECKSUM:
        sys.modules.setdefault(name, None)  # its import fails, and JAX takes zlib
    folder = _folder(environ)
    if "JAX_COMPILATION_CACHE_DIR" in environ or folder is None:
        return
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(MOST_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    for name, value in settings.items():
        environ.setdefault(name, value)


def _folder(environ: MutableMapping[str, str]) -> Path | None:
    """The user's cache folder, made where it is missing; None where that cannot be, as for a user without a home."""
    try:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "crysjax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None

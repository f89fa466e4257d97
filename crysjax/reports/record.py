"""Raw results of experiments: settings, versions, machine and day beside the rows, in JSON that a diff can show."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from crysjax.data import files
from crysjax.data.readers import reading
from crysjax.models import registry


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Settings (paths by their last part), digests of inputs, versions, commit of the code, cores and day."""
    settings = {k: _short(v) for k, v in vars(options).items()}
    machine = {"cores": os.cpu_count(), "day": datetime.now(UTC).strftime("%Y-%m-%d")}
    given = [each for k, v in vars(options).items() if k != "out" for each in (v if isinstance(v, list) else [v])]
    known = {"settings": settings, "digests": digests(given), "versions": installed_versions()}
    return known | {"commit": _commit()} | machine


def digests(inputs: Iterable[Any]) -> dict[str, str]:
    """SHA-256, 16 digits of it, of those inputs that are files, `FILE:SPLIT` or names of models: by name."""
    found = {}
    for text in (str(each) for each in inputs if isinstance(each, str | Path)):
        path = next((p for p in (Path(text), Path(text.rpartition(":")[0])) if p.is_file()), None)
        if path is None and text in registry.installed():
            path = registry.model_path(text)
        if path is not None:
            found[path.name] = reading.digest(path)[:16]
    return found


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(item) for item in value]
    return Path(value).name if isinstance(value, Path) or (isinstance(value, str) and "/" in value) else value


def write(path: str | Path, report: dict[str, Any]) -> None:
    """One line per entry, and in lists of rows one line per row: files that a diff can show."""
    files.write(path, "{\n" + ",\n".join(f" {json.dumps(k)}: {_lines(v)}" for k, v in report.items()) + "\n}\n")


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value) + "\n ]"
    return json.dumps(value, ensure_ascii=False)


def read(path: str | Path) -> dict[str, Any]:
    return reading.read_json(path)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [head, ["---"] * len(head), *rows])


def installed_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("crysjax", "jax", "jaxlib", "flax", "optax", "numpy", "numpyro", "e3nn-jax", "pymatgen", "ase", "smact")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}

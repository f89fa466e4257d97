"""Raw results of experiments: settings, versions, machine and day beside the rows, in JSON that a diff can show."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from crysjax.data import files
from crysjax.data.readers import reading


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Settings (paths by their last part), versions, commit of the code, cores and day."""
    settings = {k: _short(v) for k, v in vars(options).items()}
    machine = {"cores": os.cpu_count(), "day": datetime.now(UTC).strftime("%Y-%m-%d")}
    return {"settings": settings, "versions": installed_versions(), "commit": _commit()} | machine


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

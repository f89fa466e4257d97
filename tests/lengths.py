"""How long files and function bodies are: `python tests/lengths.py` prints it, `test_architecture.py` sets the limits.

A body is what follows the signature and the docstring; a function inside another counts towards both.
"""

from __future__ import annotations

import ast
import statistics
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "crysjax"
FILE, BODY, P90, MEDIAN = 300, 60, 45, 10
"""Limits in lines: the longest file, the longest body, nine bodies in ten, half of them."""


class Body(NamedTuple):
    """One function."""

    lines: int
    place: str  # file:line name


def files(package: Path = PACKAGE) -> dict[str, int]:
    """Lines of every file, by its path in the package."""
    return {str(p.relative_to(package)): len(p.read_text().splitlines()) for p in sorted(package.rglob("*.py"))}


def bodies(package: Path = PACKAGE) -> list[Body]:
    """Every function of the package, the longest first."""
    found = [
        Body(_length(node), f"{path.relative_to(package)}:{node.lineno} {node.name}")
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted(found, reverse=True)


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    documented = ast.get_docstring(node) is not None and len(node.body) > 1
    return node.end_lineno - node.body[documented].lineno + 1


def p90(lengths: list[int]) -> int:
    """The length that nine in ten do not exceed."""
    return sorted(lengths)[int(0.9 * len(lengths))]


if __name__ == "__main__":
    for name, lengths in (("files", list(files().values())), ("bodies", [body.lines for body in bodies()])):
        median = statistics.median(lengths)
        print(f"{name}: {len(lengths)}, median {median:.0f}, p90 {p90(lengths)}, longest {max(lengths)}")
    for body in bodies()[:15]:
        print(f"{body.lines:4d} {body.place}")

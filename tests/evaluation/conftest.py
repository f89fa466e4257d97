"""A real browser for the reports, and one crystal in many descriptions."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from crysjax.data.datasets import Entry

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=3000 --enable-logging=stderr "
    "--window-size=1100,2400"
)


class Seen(NamedTuple):
    """What the browser made of a page."""

    dom: str


@pytest.fixture
def browse(tmp_path):
    """`(page, scheme=..., shot=...) -> Seen`: opens a page; any message of its scripts is a failure."""
    found = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium on this machine: the report is not opened in a browser")

    def look(page: str, *, scheme: str = "light", shot: Path | None = None) -> Seen:
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        dark = ["--force-dark-mode"] if scheme == "dark" else []
        command = [found, *FLAGS.split(), *dark, f"--user-data-dir={tmp_path}/profile"]
        for what in ([f"--screenshot={shot}"] if shot else []), ["--dump-dom"]:
            run = subprocess.run(
                [*command, *what, file.as_uri()],
                capture_output=True,
                text=True,
                timeout=600,
                env=os.environ | {"TZ": "UTC"},
            )
            assert "CONSOLE" not in run.stderr, run.stderr  # no script error, no warning
        return Seen(run.stdout)

    return look


CHANGES = {  # whole-number changes of the axes, of determinant 1 or -1, or larger for supercells
    "axes renamed": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "two axes exchanged, one flipped": [[0, 1, 0], [1, 0, 0], [0, 0, -1]],
    "sheared": [[1, 0, 0], [2, 1, 0], [0, 0, 1]],
    "sheared far": [[1, 0, 0], [3, 1, 0], [-4, 5, 1]],
    "doubled": [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    "2 x 1 x 2": [[2, 0, 0], [0, 1, 0], [0, 0, 2]],
    "doubled and sheared": [[1, 1, 0], [-1, 1, 0], [2, 1, 1]],
}


@pytest.fixture
def described_anew():
    """`entry -> entries`: one crystal described in many ways that mean the same."""
    return _described_anew


def _described_anew(entry: Entry) -> list[Entry]:
    """The crystal, then the same by other axes, in supercells, rotated, shifted and with its atoms in another order."""
    draw = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    order = draw.permutation(len(entry.numbers))
    moved = entry._replace(id="moved", numbers=entry.numbers[order], frac=(entry.frac[order] + 0.37) % 1,
                           lattice=entry.lattice @ rotation)  # fmt: skip
    return [entry, moved, *(_changed(entry, name, np.array(change)) for name, change in CHANGES.items())]


def _changed(entry: Entry, name: str, change: np.ndarray) -> Entry:
    """The same crystal in the cell `change @ lattice`."""
    inverse, reach = np.linalg.inv(change), int(np.abs(change).sum(0).max())
    shifts = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    images = ((np.asarray(entry.frac, float)[:, None] + shifts[None]) @ inverse).reshape(-1, 3)
    inside = ((images > -1e-9) & (images < 1 - 1e-9)).all(-1)
    numbers = np.repeat(entry.numbers, len(shifts))[inside]
    assert inside.sum() == round(len(entry.numbers) * abs(np.linalg.det(change)))
    return Entry(name, numbers, images[inside], change @ np.asarray(entry.lattice, float), {})

"""A real browser for the reports."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

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
                timeout=120,
                env=os.environ | {"TZ": "UTC"},
            )
            assert "CONSOLE" not in run.stderr, run.stderr  # no script error, no warning
        return Seen(run.stdout)

    return look

"""Strict numerics for every test: no silent rank or dtype promotion; and where the real data lies."""

import hashlib
import math
import os
import subprocess
import time
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


SLOW = Path(__file__).with_name("slow.txt")
"""Tests, or files of tests, that take a core without AVX-512 8 s or more: `make test` leaves them to `test-all`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = set(SLOW.read_text().split())
    for item in items:
        if item.nodeid.partition("[")[0] in slow or item.nodeid.partition("::")[0] in slow:
            item.add_marker(pytest.mark.slow)
    if math.isfinite(config.getoption("--minutes")):  # what there is no time for is not the same at every commit
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=SLOW.parent, capture_output=True, text=True)
        turn = asked.stdout.strip()
        items.sort(key=lambda item: hashlib.sha256((turn + item.nodeid.partition("::")[0]).encode()).digest())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=float("inf"), help="begin no test later than this; skip the rest")


STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() - STARTED > 60 * item.config.getoption("--minutes"):
        pytest.skip("the time given by --minutes was over; `make test-slow` runs every slow test")


MOST_MAPPINGS = 20_000  # of memory, where Linux allows a process 65,530


@pytest.fixture(scope="module", autouse=True)
def _programs_are_forgotten():
    """Every compiled program maps memory; a process that keeps all of a whole suite's runs out of mappings and dies."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def light_compiles():
    """For programs that run for milliseconds and compile for seconds."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of third-party data sets; tests that need it are skipped, with the reason, where it is missing."""
    path = Path(os.environ.get("CRYSJAX_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not path.exists():
        pytest.skip(f"no data at {path}; set CRYSJAX_DATA")
    return path

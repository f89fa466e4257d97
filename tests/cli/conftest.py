"""A small world, made once: crystals of 2 to 4 atoms, and models that `crysjax train` itself made of them."""

import contextlib
import fcntl
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import yaml
from jax.experimental.compilation_cache import compilation_cache

from crysjax.cli.app import main
from crysjax.crystallography.standard_cells import standardized
from crysjax.data import datasets
from crysjax.data.datasets import Entry

ELEMENTS = (8, 12, 20, 22, 38)  # O, Mg, Ca, Ti, Sr
ENERGY, GAP = "formation_energy_ev_per_atom", "band_gap_ev"
SMALL_NETWORK = {"network": "dense", "network.width": 16, "network.layers": 2, "network.frequencies": 4}
CONFIGS = {
    "generator": SMALL_NETWORK | {
        "properties": [ENERGY, GAP], "steps": 30, "log_every": 4, "frac": "flow", "lattice": "flow",
        "species": "discrete",
    },
    "heads": {
        "properties": [ENERGY, GAP], "steps": 30, "network": "graph", "network.width": 16, "network.layers": 1,
        "network.angular": 4, "network.radial_basis": 6, "heads.hidden": 16,
        "ensemble.members": 2, "optimizer.learning_rate": 0.01,
    },
    "potential": {
        "steps": 30, "network": "cluster", "network.cutoff_angstrom": 3.5, "network.radial_basis": 3,
        "network.channels": 4, "network.vectors": 2, "network.width": 4, "network.hidden": 4, "network.layers": 1,
    },
}  # fmt: skip
COMMON = {"tiles": 2, "pairs": 64, "save_every": 10}


class Answer(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


class World(NamedTuple):
    """Paths of the data set, of a trained model a kind, and the config that each came from."""

    folder: Path
    data: Path
    generator: Path
    heads: Path
    potential: Path

    def config(self, kind: str) -> dict:
        """What trains a model of this kind."""
        return {"kind": kind, "data": str(self.data)} | COMMON | CONFIGS[kind]

    def plan(self, **changed) -> dict:
        """A tiny campaign whose surrogate has its say in the last round."""
        models = {name: str(getattr(self, name)) for name in ("generator", "heads", "potential")}
        return {
            f"target.{GAP}": [1.0, 2.0], f"target.{ENERGY}": "minimise", "elements": ["O", "Mg", "Ca", "Ti", "Sr"],
            "max_atoms": 4, "rounds": 3, "candidates": 16, "validations": 6, "guidance": "resample",
            "guidance.steps": 2, "sample_steps": 2, "relax_steps": 10,
        } | models | changed  # fmt: skip


def run(*arguments) -> Answer:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return Answer(left.value.code, out.getvalue(), err.getvalue())


def crystals() -> datasets.Dataset:
    """Distorted rock-salt-like cells, reduced, with an oxygen each; the composition says the formation energy."""
    rng, rows = np.random.default_rng(0), []
    ideal = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    for i in range(60):
        n = 2 + i % 3
        numbers = np.array([8, *rng.choice(ELEMENTS[1:], n - 1)])
        lattice = (n / 3) ** (1 / 3) * np.diag(rng.uniform(3.2, 4.2, 3)) + rng.normal(0, 0.1, (3, 3))
        properties = {
            ENERGY: -2 + 0.02 * numbers.mean() + rng.normal(0, 0.05), GAP: rng.uniform(0, 4),
            datasets.ENERGY: -6 + 0.05 * numbers.mean(),
        }  # fmt: skip
        rows.append(Entry(f"c{i:02d}", numbers, ideal[:n] + rng.normal(0, 0.02, (n, 3)), lattice, properties))
    split = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    return standardized(datasets.from_entries(rows, split=split, provenance={"note": "made up"}))


@contextlib.contextmanager
def quick_compiles(cache: Path):
    """Programs of these tests run for milliseconds and compile for seconds: compile lightly, and once."""
    settings = {"jax_disable_most_optimizations": True, "jax_compilation_cache_dir": str(cache),
                "jax_persistent_cache_min_compile_time_secs": 0.1}  # fmt: skip
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder that all processes of one run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextlib.contextmanager
def made_once(folder: Path):
    """True for the first process that comes, which has until the end to fill the folder; the others wait for it."""
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not folder.exists()


@pytest.fixture(scope="session")
def cache(common) -> Path:
    """Compiled programs, shared with the processes that tests start."""
    return common / "compiled"


@pytest.fixture(autouse=True, scope="module")
def quick(cache):
    with quick_compiles(cache):
        yield


@pytest.fixture(scope="session")
def crysjax() -> Callable[..., Answer]:
    return run


@pytest.fixture(scope="session")
def one_line() -> Callable[..., None]:
    """Checks that a command failed with one line on standard error and nothing else."""

    def check(answer: Answer, message: str, code: int = 2) -> None:
        assert answer.code == code, answer
        assert re.search(message, answer.err), answer.err
        assert answer.err.startswith("crysjax: ") and answer.err.count("\n") == 1, answer.err
        assert "internal error" not in answer.err

    return check


@pytest.fixture(scope="session")
def train() -> Callable[..., Answer]:
    """`crysjax train`; optax itself multiplies floats by integer step counts, which strict promotion forbids."""

    def trained(*arguments) -> Answer:
        with jax.numpy_dtype_promotion("standard"):
            return run("train", *arguments)

    return trained


@pytest.fixture(scope="session")
def start(cache) -> Callable[..., subprocess.Popen]:
    """The command line, or other Python, in a process of its own."""

    def started(*arguments, code: str = "from crysjax.cli import main; main()") -> subprocess.Popen:
        environment = os.environ | {
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        # a background shell hands on that Ctrl-C is ignored
        listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        command = [sys.executable, "-c", f"{listen}\n{code}", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return started


@pytest.fixture(scope="session")
def write() -> Callable[[Path, dict], Path]:
    """A mapping as a YAML file."""

    def written(path: Path, settings: dict) -> Path:
        path.write_text(yaml.safe_dump(settings))
        return path

    return written


@pytest.fixture(scope="session")
def world(common, cache, train, write) -> World:
    """Made by the first process that needs it; nobody writes there afterwards."""
    folder = common / "world"
    made = World(folder, folder / "data.npz", *(folder / kind / "model.npz" for kind in CONFIGS))
    with made_once(folder) as first, quick_compiles(cache):
        if first:
            folder.mkdir()
            datasets.save(crystals(), made.data)
        for kind in CONFIGS if first else ():
            answer = train(write(folder / f"{kind}.yaml", made.config(kind)), "--out", folder / kind)
            assert answer.code == 0, answer.err
        if first:
            write(folder / "plan.yaml", made.plan())
    return made


@pytest.fixture(scope="session")
def plan(world) -> Path:
    return world.folder / "plan.yaml"


@pytest.fixture(scope="session")
def designed(plan, cache, common) -> tuple[Path, Answer]:
    """The folder of an uninterrupted campaign, and what it said; made by the first process that needs it."""
    out, said = common / "designed", common / "designed.json"
    with made_once(out) as first, quick_compiles(cache):
        if first:
            answer = run("design", plan, "--out", out)
            assert answer.code == 0 and answer.err == "", answer.err
            said.write_text(json.dumps(answer))
    return out, Answer(*json.loads(said.read_text()))

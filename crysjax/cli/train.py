"""`crysjax train`: a generator or property heads from a config, resumable, ending in one model file."""

from __future__ import annotations

import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer

from crysjax.campaign.settings import checked, choice, read_yaml
from crysjax.cli import registry
from crysjax.cli.show import bar
from crysjax.cli.tasks import TASKS

SECTIONS = ("network", "generator", "heads", "ensemble", "loss", "frac", "lattice", "species", "optimizer")


class Run(NamedTuple):
    """How a training run goes, whatever is trained."""

    kind: str
    data: str
    properties: list[str]
    train_split: str
    validation_split: str
    steps: int
    tiles: int
    pairs: int
    seed: int
    ema_decay: float
    log_every: int
    save_every: int


def run_settings(
    *,
    kind: str,
    data: str,
    steps: int,
    properties: list[str] = [],  # noqa: B006  # never changed
    train_split: str = "train",
    validation_split: str = "val",
    tiles: int = 4,
    pairs: int = 1024,
    seed: int = 0,
    ema_decay: float = 0.999,
    log_every: int = 50,
    save_every: int = 1000,
) -> Run:
    """The keys of a training config that are not a factory's.

    Args:
        kind: what is trained: "generator", "heads" or "potential".
        data: a data set file made by `crysjax data prepare`, relative to the working folder.
        steps: optimiser steps.
        properties: labels: a generator's conditions, or what heads predict.
        train_split, validation_split: names of splits in the data set.
        tiles: packs a step.
        pairs: pairs of sites a pack, which is what memory and time go with.
        seed: of initial weights, the order of the data and every draw.
        ema_decay: of the weights that are evaluated and exported.
        log_every, save_every: steps between log rows and between checkpoints.
    """
    for key, value in {"steps": steps, "tiles": tiles, "log_every": log_every, "save_every": save_every}.items():
        if value < 1:
            raise ValueError(f"{key}: {value}; expected a whole number of at least 1")
    if kind not in TASKS:
        raise ValueError(f"kind: {kind!r}; expected {choice(kind, TASKS)}")
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay: {ema_decay}; expected a number from 0 up to, not including, 1")
    return Run(kind, data, list(properties), train_split, validation_split, steps, tiles, pairs, seed, ema_decay,
               log_every, save_every)  # fmt: skip


def train(
    config: Path = typer.Argument(help="YAML, such as configs/mp_20_generator.yaml."),
    out: Path = typer.Option(..., help="Folder of the run; one that was interrupted goes on."),
    change: list[str] = typer.Option([], "--set", help="Override a key: --set network.width=128."),
) -> None:
    """Train a generator or property heads; writes metrics.jsonl, checkpoints and model.npz."""
    settings = read_yaml(config) | dict(_override(text) for text in change)
    try:
        run, build = parse(settings)
        model = _train(run, build, out)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the newest checkpoint in {out} is kept; the same command goes on from there"
        ) from None
    typer.echo(f"{model}: done")


def _override(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected KEY=VALUE")
    return key.strip(), yaml.safe_load(value)


def parse(settings: Mapping[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The run, and the flat settings of the model (`network`, `network.width`, ...)."""
    names = {f"{section}" for section in SECTIONS}
    build = {k: v for k, v in settings.items() if k.partition(".")[0] in names}
    plain = {k: v for k, v in settings.items() if k not in build}
    return run_settings(**checked(run_settings, plain)), build


def _train(run: Run, settings: dict[str, Any], out: Path) -> Path:
    import jax

    from crysjax.data import datasets
    from crysjax.training import loop

    dataset = datasets.load(run.data)
    part, held_out = (datasets.where_split(dataset, s) for s in (run.train_split, run.validation_split))
    settings, optimizer = _optimizer(settings, run.steps)
    task = TASKS[run.kind](settings, run, part, held_out)
    key_init, key_run, key_test = jax.random.split(jax.random.key(run.seed), 3)
    params = task.init(key_init, *jax.tree.map(lambda leaf: leaf[0], next(iter(task.stream(0)))))
    state = loop.initial(params, optimizer, key_run)
    begun = time.perf_counter()
    step = loop.make_step(task.loss, optimizer, ema_decay=run.ema_decay)
    with bar("train") as advance:
        state = loop.fit(
            state, step, task.stream, out, steps=run.steps, log_every=run.log_every, save_every=run.save_every,
            on_log=lambda row: advance(row["step"], run.steps, _say(row)), metadata=task.config,
        )  # fmt: skip
    metrics = evaluate(task.loss, state.ema, key_test, task.held_out())
    about = card(run, dataset, part, params, metrics, time.perf_counter() - begun)
    return task.export(out / "model.npz", about, state.ema)


def _optimizer(settings: dict[str, Any], steps: int) -> tuple[dict[str, Any], Any]:
    from crysjax.training import loop

    plain, nested = registry.sections(settings, ("optimizer",))
    optimizer = registry.made("optimizer", "adamw", {"adamw": loop.adamw}, {"steps": steps} | nested["optimizer"])
    return plain, optimizer


def evaluate(loss: Callable, params: Any, key: Any, items: list[tuple]) -> dict[str, float]:
    """Mean loss and metrics over packs with their labels; mean absolute errors where the metrics are sums."""
    import jax

    jitted, keys = jax.jit(loss), jax.random.split(key, len(items))
    values = [jitted(params, k, *item) for k, item in zip(keys, items)]
    means = jax.tree.map(lambda *leaves: float(sum(map(float, leaves)) / len(leaves)), *values)
    found = {"loss": means[0], **means[1]}
    if any(name.startswith("count/") for name in found):
        from crysjax.properties.heads import mean_absolute_errors

        return {"loss": found["loss"]} | {f"mae/{k}": v for k, v in mean_absolute_errors(found).items()}
    return found


def card(run: Run, dataset: Any, part: Any, params: Any, metrics: dict, seconds: float) -> dict[str, Any]:
    """What is known of the making of a model; it travels inside the model's file."""
    import jax
    import numpy as np

    from crysjax import __version__

    return {
        "run": run._asdict(),
        "crystals": len(part),
        "provenance": dataset.provenance,
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)),
        "validation": {k: round(v, 6) for k, v in metrics.items()},
        "seconds_of_this_session": round(seconds, 1),
        "hardware": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "versions": {"crysjax": __version__, "jax": jax.__version__, "python": platform.python_version()},
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _say(row: dict) -> str:
    return f"loss {row['loss']:.4f}" if math.isfinite(row["loss"]) else "loss is not finite"

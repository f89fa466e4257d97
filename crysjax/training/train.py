"""Train a model from a flat config: resumable, ending in one model file."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crysjax.config import checked, choice
from crysjax.models import cells, registry
from crysjax.terminal import bar, say
from crysjax.training import fine_tune
from crysjax.training.kinds import TASKS, refuse_metrics, warn_of_labels
from crysjax.training.run import Run, Task

SECTIONS = (
    "family", "network", "generator", "heads", "pu", "ensemble", "loss", "novelty", "frac", "lattice", "species",
    "optimizer", "adapter",
)  # fmt: skip


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
    start: str | None = None,
) -> Run:
    """The keys of a training config that are not a factory's.

    Args:
        kind: what is trained: "generator", "heads", "potential" or "synthesizability".
        data: a data set file made by `crysjax data prepare`, relative to the working folder.
        steps: number of optimizer steps.
        properties: columns of the data set: a generator's conditions, what heads predict, or the one column that says
            which crystals have been made (1; 0 or missing = unlabeled).
        train_split: name of the split of the data set to train on.
        validation_split: name of the split to validate on, and to calibrate heads with.
        tiles: packs per optimizer step.
        pairs: pairs of sites per pack; memory and time are proportional to it.
        seed: random seed of initial weights, the order of the data and every draw.
        ema_decay: decay per step of the moving average of the weights, which is what is evaluated and exported.
        log_every: steps between rows of the log.
        save_every: steps between checkpoints.
        start: a generator to start from, a shipped one's name or a file; its settings hold where the config has none,
            its properties come before the config's. `adapter: none` trains every weight, `condition` the inputs of new
            properties, `lora` low-rank changes of kernels as well (`training.adapters`).
    """
    counts = {"steps": steps, "tiles": tiles, "pairs": pairs, "log_every": log_every, "save_every": save_every}
    for key, value in counts.items():
        if value < 1:
            raise ValueError(f"{key}: {value}; expected a whole number of at least 1")
    if kind not in TASKS:
        raise ValueError(f"kind: {kind!r}; expected {choice(kind, TASKS)}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: {seed}; expected a whole number from 0 to 4294967295")
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay: {ema_decay}; expected a number from 0 up to, not including, 1")
    return Run(kind, data, list(properties), train_split, validation_split, steps, tiles, pairs, seed, ema_decay,
               log_every, save_every, start)  # fmt: skip


def parse(settings: Mapping[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The run, and the flat settings of the model (`network`, `network.width`, ...)."""
    build = {k: v for k, v in settings.items() if k.partition(".")[0] in SECTIONS}
    plain = {k: v for k, v in settings.items() if k not in build}
    for key in plain:
        section, dot, _ = key.partition(".")
        if dot:
            raise ValueError(f"{key}: unknown section {section!r}; expected {choice(section, SECTIONS)}")
    return run_settings(**checked(run_settings, plain)), build


def train(run: Run, settings: dict[str, Any], out: Path) -> Path:
    """Train, or go on with, the run in a folder; the path of the model's file."""
    import jax

    from crysjax.data import datasets, digests
    from crysjax.models import checkpoint
    from crysjax.training import loop

    dataset = datasets.load(run.data)
    part, held_out = (datasets.where_split(dataset, s) for s in (run.train_split, run.validation_split))
    given, (settings, optimizer) = settings, _optimizer(settings, run.steps)
    settings, adapter, own = fine_tune.split(settings, run)
    base = fine_tune.base(run) if run.start else None
    if base:
        settings, run, part, held_out = fine_tune.continued(base, settings, run, part, held_out)
    contents = {"SHA-256 of the data": " and ".join(map(digests.of_dataset, (part, held_out)))}  # as they were given
    if run.kind == "generator":
        (part, held_out), changed = cells.of_training(settings, part, held_out)
        contents |= {"cells": changed} if changed else {}
    warn_of_labels(run, part, held_out)
    task = TASKS[run.kind](settings, run, part, held_out)
    origin = task.config | {"run": run._asdict(), "given": given, "start": {"start": base and base.sha256}}
    origin |= {"contents": contents}
    if checkpoint.exists(out):
        same_run(out, checkpoint.metadata(out), origin)
    key_init, key_run, key_test = jax.random.split(jax.random.key(run.seed), 3)
    params = _initial(task, key_init)
    if base:
        task, params, line = fine_tune.started(task, params, base, adapter, own, jax.random.fold_in(key_init, 1))
        say(f"crysjax: {line}", err=True)
    state = loop.initial(params, optimizer, key_run)
    begun = time.perf_counter()
    step = loop.make_step(task.loss, optimizer, ema_decay=run.ema_decay)
    chart = _tensorboard(out)
    with bar("train") as advance:
        state = loop.fit(
            state, step, task.stream, out, steps=run.steps, log_every=run.log_every, save_every=run.save_every,
            on_log=lambda row: (advance(row["step"], run.steps, _say(row)), chart(row)), metadata=origin,
            say=lambda text: say(f"crysjax: {text}", err=True),
        )  # fmt: skip
    metrics = evaluate(task.loss, state.ema, key_test, task.held_out())
    refuse_metrics(metrics, out)
    about = card(run, part, params, metrics, time.perf_counter() - begun)
    return task.export(out / "model.npz", about, state.ema)


def _initial(task: Task, key: Any) -> Any:
    """Parameters, from the first pack; settings that make no model are an error."""
    import jax

    first = jax.tree.map(lambda leaf: leaf[0], next(iter(task.stream(0))))
    try:
        return jax.jit(task.init)(key, *first)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"no model can be made of these settings: {error}") from None


FREE = ("data", "log_every", "save_every")
"""What may change when a run goes on: where its data lies, and how often it writes."""


def same_run(out: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """An error that names the first setting that differs from those that the run in `out` began with."""
    now = json.loads(json.dumps(now))  # as the file holds it
    for part in ("run", "given", "settings", "start", "contents"):
        before, after = began.get(part, now[part]), now[part]
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key) and key not in FREE:
                raise ValueError(
                    f"{out}: this run began with {key} = {before.get(key)!r}, it is now {after.get(key)!r}; "
                    "choose another --out"
                )


def _optimizer(settings: dict[str, Any], steps: int) -> tuple[dict[str, Any], Any]:
    from crysjax.training import loop

    plain, nested = registry.sections(settings, ("optimizer",))
    optimizer = registry.made("optimizer", "adamw", {"adamw": loop.adamw}, {"steps": steps} | nested["optimizer"])
    return plain, optimizer


def evaluate(loss: Callable, params: Any, key: Any, items: list[tuple]) -> dict[str, float]:
    """Mean loss and metrics over packs with their labels; mean absolute errors where the metrics are sums.

    A label that no crystal has gives no metric.
    """
    import jax

    jitted, keys = jax.jit(loss), jax.random.split(key, len(items))
    values = [jitted(params, k, *item) for k, item in zip(keys, items)]
    means = jax.tree.map(lambda *leaves: float(sum(map(float, leaves)) / len(leaves)), *values)
    found = {"loss": means[0], **means[1]}
    if any(name.startswith("count/") for name in found):
        from crysjax.predictors.heads import mean_absolute_errors

        errors = mean_absolute_errors(found).items()
        return {"loss": found["loss"]} | {f"mae/{k}": v for k, v in errors if found[f"count/{k}"]}
    return found


def card(run: Run, part: Any, params: Any, metrics: dict, seconds: float) -> dict[str, Any]:
    """What is known of the making of a model; it travels inside the model's file."""
    import jax
    import numpy as np

    from crysjax import __version__

    return {
        "run": run._asdict(),
        "crystals": len(part),
        "provenance": part.provenance,
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)),
        "validation": {k: round(v, 6) for k, v in metrics.items()},
        "seconds": round(seconds, 1),
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


def _tensorboard(out: Path) -> Callable[[dict], None]:
    """Writes a row of metrics for TensorBoard where the extra `tensorboard` is installed, else does nothing."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return lambda row: None
    writer = SummaryWriter(str(out / "tensorboard"))

    def write(row: dict) -> None:
        for name in row.keys() - {"step"}:
            writer.add_scalar(name, row[name], row["step"])
        writer.flush()

    return write


def _say(row: dict) -> str:
    return f"loss {row['loss']:.4f}" if math.isfinite(row["loss"]) else "loss is not finite"

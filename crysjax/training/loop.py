"""The one training loop: any pure loss over packs, with EMA, exact resume and data-parallel devices.

A batch is a few packs. The gradient is accumulated pack by pack (a `scan`), which keeps memory at one pack and the
working set in cache; across devices the packs of a batch are shared out and the gradients averaged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from crysjax.training import checkpoint


class State(NamedTuple):
    """Everything that a run carries from step to step; a checkpoint of it resumes bit for bit."""

    step: Array  # () int32
    params: Any
    ema: Any  # exponential moving average of params: what is evaluated and shipped
    optimizer: Any
    key: Array  # key data; the key of a step is folded in from `step`


Loss = Callable[..., tuple[Array, dict]]  # (params, key, pack, labels) -> (mean over its crystals, metrics)


def adamw(
    *,
    learning_rate: float = 1e-3,
    steps: int,
    warmup: int = 200,
    final_fraction: float = 0.01,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay to `final_fraction` of the peak, and clipping by global norm."""
    warmup = min(warmup, max(steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps, learning_rate * final_fraction)
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adamw(schedule, b2=0.99, weight_decay=weight_decay))


def initial(params, optimizer: optax.GradientTransformation, key: Array) -> State:
    """The state before the first step."""
    copy = jax.tree.map(jnp.array, params)
    return State(jnp.zeros((), jnp.int32), params, copy, optimizer.init(params), jax.random.key_data(key))


def make_step(loss: Loss, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.999) -> Callable:
    """`(state, batch) -> (state, metrics)`, one compiled program; `batch = (pack, labels)`, leaves (tiles, ...)."""

    def tile(params, key: Array, item: tuple) -> tuple:
        return jax.value_and_grad(loss, has_aux=True)(params, key, *item)

    def step(state: State, batch: tuple) -> tuple[State, dict]:
        tiles = jax.tree.leaves(batch)[0].shape[0]
        keys = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), tiles)

        def add(total, this):
            return jax.tree.map(jnp.add, total, tile(state.params, *this)), None

        first = jax.tree.map(lambda leaf: leaf[0], (keys, batch))
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(tile, state.params, *first))
        ((value, metrics), gradient), _ = jax.lax.scan(add, zero, (keys, batch))
        gradient = jax.tree.map(lambda g: g / tiles, gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))  # follows closely at first
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        logged = {"loss": value / tiles, "grad_norm": optax.global_norm(gradient)}
        logged |= {k: v / tiles for k, v in metrics.items()}
        return State(state.step + 1, params, ema, optimizer_state, state.key), logged

    return jax.jit(step, donate_argnums=0)


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the batch that made it is saved."""


def fit(
    state: State,
    step: Callable,
    stream: Callable[[int], Iterator[tuple]],
    folder: str | Path,
    *,
    steps: int,
    log_every: int = 50,
    save_every: int = 1000,
    on_log: Callable[[dict], None] = lambda row: None,
    metadata: dict | None = None,
) -> State:
    """Train until `steps`, resuming from the newest checkpoint in `folder`; metrics go to `folder/metrics.jsonl`.

    Args:
        stream: `stream(k)` yields the batches from step `k` on, a function of `k` alone: this makes resuming exact.
        on_log: called with every logged row.

    Raises:
        NonFiniteLoss: after saving the offending batch as `folder/bad_batch.npz` and the last good state.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = checkpoint.restore(folder, state) if checkpoint.exists(folder) else state
    first, began, pending = int(state.step), time.perf_counter(), []
    place = _placement()
    with (folder / "metrics.jsonl").open("a") as log:
        for batch in stream(first):
            if int(state.step) >= steps:
                break
            state, metrics = step(state, place(batch))
            pending.append(metrics)
            done = int(state.step)
            if done % log_every == 0 or done == steps:
                row = _summary(pending, done, (time.perf_counter() - began) / (done - first))
                pending = []
                if not np.isfinite(row["loss"]):
                    _save_bad(folder, batch)
                    raise NonFiniteLoss(
                        f"loss is {row['loss']} near step {done}; batch saved in {folder}/bad_batch.npz"
                    )
                log.write(json.dumps(row) + "\n")
                log.flush()
                on_log(row)
            if done % save_every == 0 or done == steps:
                checkpoint.save(folder, state, metadata or {})
    return state


def _summary(rows: list[dict], step: int, seconds: float) -> dict:
    names = rows[0]
    return {"step": step, "seconds_a_step": seconds} | {k: float(np.mean([float(r[k]) for r in rows])) for k in names}


def _save_bad(folder: Path, batch: tuple) -> None:
    leaves = {f"leaf_{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(batch))}
    np.savez_compressed(folder / "bad_batch.npz", **leaves)


def _placement() -> Callable:
    """Put a batch on the devices: its packs shared out over all of them when there are several."""
    devices = jax.devices()
    if len(devices) == 1:
        return lambda batch: batch
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return lambda batch: jax.device_put(batch, sharding)

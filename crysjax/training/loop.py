"""The one training loop: any pure loss over packs, with EMA, data-parallel devices and resuming bit for bit.

A batch is a few packs. The gradient is accumulated pack by pack (a `scan`), which keeps memory at one pack and the
working set in cache; across devices the packs of a batch are shared out and the gradients summed.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from crysjax.data import files
from crysjax.data.readers import reading
from crysjax.models import checkpoint


class TrainingState(NamedTuple):
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
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up, cosine decay and clipping by global norm.

    Args:
        learning_rate: peak of the learning rate, reached at the end of the warm-up.
        steps: steps until the decay ends; a training config that leaves it out gets its own `steps`.
        warmup: steps of the linear warm-up, at most a tenth of all.
        final_fraction: learning rate after the last step, as a fraction of the peak.
        weight_decay: decoupled weight decay; a weight shrinks by this times the learning rate in each step.
        clip_norm: largest global norm of a gradient; longer ones are scaled down to it.
    """
    warmup = min(warmup, max(steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps, learning_rate * final_fraction)
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adamw(schedule, b2=0.99, weight_decay=weight_decay))


def initial(params, optimizer: optax.GradientTransformation, key: Array) -> TrainingState:
    """The state before the first step; it owns its arrays, as a step gives them away."""
    own, ema = (jax.tree.map(jnp.array, params) for _ in range(2))
    return TrainingState(jnp.zeros((), jnp.int32), own, ema, optimizer.init(own), jax.random.key_data(key))


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.999, devices: list | None = None
) -> Callable:
    """`(state, batch) -> (state, metrics)`, one compiled program; `batch = (pack, labels)`, leaves (tiles, ...).

    The tiles are shared out over `devices` (default: all); their number must divide by the number of devices. A step
    whose loss or gradient is not finite leaves the state as it was.
    """
    mesh = jax.sharding.Mesh(np.array(devices or jax.devices()), ("data",))
    shared, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")

    def tile(params, key: Array, item: tuple) -> tuple:
        return jax.value_and_grad(loss, has_aux=True)(params, jax.random.wrap_key_data(key), *item)

    def total(params, keys: Array, batch: tuple) -> tuple:
        def add(so_far, this):
            return jax.tree.map(jnp.add, so_far, tile(params, *this)), None

        first = jax.tree.map(lambda leaf: leaf[0], (keys, batch))
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(tile, params, *first))
        return jax.lax.psum(jax.lax.scan(add, zero, (keys, batch))[0], "data")

    spread = jax.shard_map(total, mesh=mesh, in_specs=(shared, split, split), out_specs=shared, check_vma=False)

    def step(state: TrainingState, batch: tuple) -> tuple[TrainingState, dict]:
        tiles = jax.tree.leaves(batch)[0].shape[0]
        keys = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), tiles)
        sums = spread(state.params, jax.random.key_data(keys), batch)
        (value, metrics), gradient = jax.tree.map(lambda leaf: leaf / tiles, sums)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))  # follows closely at first
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        moved = TrainingState(state.step + 1, params, ema, optimizer_state, state.key)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return kept, {"loss": value, "grad_norm": norm} | metrics

    jitted, everywhere = jax.jit(step, donate_argnums=0), jax.sharding.NamedSharding(mesh, shared)
    # a first state that is not on the mesh yet would make the second step compile once more
    return lambda state, batch: jitted(jax.device_put(state, everywhere), batch)


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the batch that made it is saved."""


def fit(
    state: TrainingState,
    step: Callable,
    stream: Callable[[int], Iterator[tuple]],
    folder: str | Path,
    *,
    steps: int,
    log_every: int = 50,
    save_every: int = 1000,
    on_log: Callable[[dict], None] = lambda row: None,
    metadata: dict | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> TrainingState:
    """Train until `steps`, resuming from the newest checkpoint in `folder`; metrics go to `folder/metrics.jsonl`.

    Args:
        stream: `stream(k)` yields the batches from step `k` on, a function of `k` alone: this makes resuming exact.
        on_log: called with every logged row.
        say: told of a damaged checkpoint, where an older one is gone on from.

    Raises:
        Busy: another process trains in this folder.
        NonFiniteLoss: after saving the offending batch as `folder/bad_batch.npz`.
    """
    folder = Path(folder)
    log = folder / "metrics.jsonl"
    with files.alone(folder):
        state = checkpoint.restore(folder, state, say) if checkpoint.exists(folder) else state
        first, began, pending, last = int(state.step), time.perf_counter(), [], None
        _forget_after(log, first)
        with files.naming(log), log.open("a") as book:
            for done, batch in enumerate(stream(first), first + 1):
                if done > steps:
                    break
                state, metrics = step(state, batch)
                if last is not None:
                    _check(*last, folder)  # one step late: the device is already busy with this one
                last = (done, metrics, batch)
                pending.append(metrics)
                if done % log_every == 0 or done % save_every == 0 or done == steps:
                    _check(*last, folder)
                if done % log_every == 0 or done == steps:
                    row = _summary(pending, done, (time.perf_counter() - began) / (done - first))
                    pending = []
                    book.write(json.dumps(row) + "\n")
                    book.flush()
                    on_log(row)
                if done % save_every == 0 or done == steps:
                    checkpoint.save(folder, state, metadata or {})
        return state


def _forget_after(log: Path, step: int) -> None:
    """Leave out the rows of steps that are done again, a line that was cut short, and those that are no rows."""
    if not log.exists():
        return
    *lines, cut = reading.read_bytes(log).decode("utf-8", "replace").split("\n")
    kept = [line for line in lines if _step_of(line) <= step]
    if cut or len(kept) < len(lines):
        files.write(log, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    """The step of a row of the log; infinite for what is none, such as the zeros that a power cut leaves."""
    try:
        step = reading.parse_json(line)["step"]
    except (ValueError, TypeError, LookupError):
        return math.inf
    return step if isinstance(step, int) and not isinstance(step, bool) else math.inf


def _check(step: int, metrics: dict, batch: tuple, folder: Path) -> None:
    if np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
        return
    leaves = {f"leaf_{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(batch))}
    files.write_npz(folder / "bad_batch.npz", leaves)
    raise NonFiniteLoss(
        f"step {step}: loss {float(metrics['loss'])}, gradient norm {float(metrics['grad_norm'])}; the batch is saved "
        f"as {folder / 'bad_batch.npz'} and the newest checkpoint in {folder} is kept"
    )


def _summary(rows: list[dict], step: int, seconds: float) -> dict:
    names = rows[0]
    return {"step": step, "seconds_a_step": seconds} | {k: float(np.mean([float(r[k]) for r in rows])) for k in names}

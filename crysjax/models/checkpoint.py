"""Checkpoints: the state of a run (orbax) and models to hand over (one file: config and half-precision leaves)."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from crysjax.data import digests, files
from crysjax.data.readers import reading

FORMAT = 1


def exists(folder: str | Path) -> bool:
    """Whether a run in this folder can be resumed."""
    return (Path(folder) / "checkpoints").exists() and bool(_steps(folder))


def newest(folder: str | Path) -> int:
    """The step of the newest checkpoint."""
    return _steps(folder)[-1]


def _steps(folder: str | Path) -> list[int]:
    return sorted(int(p.name) for p in (Path(folder) / "checkpoints").iterdir() if p.name.isdigit())


def save(folder: str | Path, state: Any, metadata: dict, *, keep: int = 2) -> None:
    """Write the state as `folder/checkpoints/<step>` with digests, whole or not at all, and keep the newest few."""
    import jax
    import orbax.checkpoint as ocp

    root = (Path(folder) / "checkpoints").resolve()
    text = json.dumps(metadata | {"format": FORMAT}, indent=1)
    files.write(Path(folder) / "config.json", digests.sealed_json(text))
    _remove(root.glob("*.orbax-checkpoint-tmp*"))  # what a kill or a full disk left half written
    path = root / str(int(state.step))
    with files.whole(path, folder=True) as partial:
        with _errors_of_orbax(path), ocp.StandardCheckpointer() as writer:
            writer.save(partial, jax.tree.map(np.asarray, state), force=True)
        digests.write_list(partial)
    _remove(root / str(old) for old in _steps(folder)[:-keep])


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _errors_of_orbax(path: Path) -> Iterator[None]:
    """A full disk as the system's own error; orbax would raise a ValueError, and each of its threads print one too."""
    log, unraisable = logging.getLogger("absl"), sys.unraisablehook
    level = log.level
    log.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda it: None if "Event loop is closed" in str(it.exc_value) else unraisable(it)
    try:
        yield
        sys.unraisablehook = unraisable  # after a failure, writers that are still under way will complain
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        _remove(path.parent.glob("*.orbax-checkpoint-tmp*"))  # of threads that are still at it
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        log.setLevel(level)


def metadata(folder: str | Path) -> dict:
    """What `save` was told about the run in this folder; another version's is an error."""
    path = Path(folder) / "config.json"
    try:
        found = digests.parse_json(reading.read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: cut short or damaged ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        found = found if isinstance(found, dict) else {}
        raise ValueError(f"{path}: checkpoints of format {found.get('format')}, this version reads format {FORMAT}")
    return found


def restore(folder: str | Path, like: Any, say: Callable[[str], None] = warnings.warn) -> Any:
    """The newest undamaged state in the folder, with the structure and shapes of `like`.

    A damaged one is told to `say` and put aside as `checkpoints/<step>.damaged`; the steps since the one before it are
    then to be done again. An error where no checkpoint is left, or where all belong to a run with other settings.
    """
    root, lost = Path(folder) / "checkpoints", ""
    for step in reversed(_steps(folder)):
        path = root / str(step)
        try:
            found = _read(path, like)
        except _Foreign as error:
            raise ValueError(str(error)) from None
        except ValueError as error:
            lost = lost or str(error)
            continue
        for bad in (s for s in _steps(folder) if s > step):
            say(f"{root / str(bad)}: damaged and put aside; going on from step {step}")
            _remove([root / f"{bad}.damaged"])
            (root / str(bad)).replace(root / f"{bad}.damaged")
        return found
    raise ValueError(lost)


class _Foreign(ValueError):
    """A checkpoint that is as it was written, and fits another run."""


def _read(path: Path, like: Any) -> Any:
    import jax
    import orbax.checkpoint as ocp

    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    try:
        checked = digests.check_list(path)  # before anything else reads it
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); use a new folder") from None
    try:
        with _errors_of_orbax(path), ocp.StandardCheckpointer() as reader:
            found = reader.restore(path.resolve(), jax.tree.map(np.zeros_like, jax.tree.map(np.asarray, like)))
    except Exception as error:  # of a file that nobody checked, orbax and the libraries below it raise anything
        if isinstance(error, OSError | MemoryError):
            raise
        said = f"{path}: {'' if checked else 'damaged, or '}of a run with other settings; use a new folder"
        raise (_Foreign if checked else ValueError)(said) from None
    return jax.tree.map(lambda leaf, shape: jax.numpy.asarray(leaf, shape.dtype), found, target)


def export(path: str | Path, config: dict, params: Any) -> Path:
    """Write a model as one `.npz`: its config (which rebuilds it) and its leaves in bfloat16."""
    leaves = {_name(p): np.asarray(v).astype(ml_dtypes.bfloat16).view(np.uint16) for p, v in _flat(params)}
    text = json.dumps(config | {"format": FORMAT})
    return files.write_npz(path, {"config": np.frombuffer(text.encode(), np.uint8)} | leaves)


def read_config(path: str | Path) -> dict:
    """The config inside an exported model; one clear error for anything else or another version."""
    with files.npz(path, "a crysjax model") as file:
        config = reading.parse_json(bytes(file["config"]))
        if config.get("format") != FORMAT:
            raise files.Damaged(path, f"model format {config.get('format')}, this version reads format {FORMAT}")
        return config


def read_params(path: str | Path) -> Any:
    """The leaves of an exported model as nested dictionaries of float32 arrays."""
    import jax

    tree: dict = {}
    with files.npz(path, "a crysjax model") as file:
        for name in file.files:
            if name == "config":
                continue
            *parents, last = name.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = file[name].view(ml_dtypes.bfloat16).astype(np.float32)
    return jax.tree.map(jax.numpy.asarray, tree)


def _flat(params: Any) -> list:
    import jax

    return jax.tree_util.tree_flatten_with_path(params)[0]


def _name(path: tuple) -> str:
    return "/".join(str(entry.key) for entry in path)

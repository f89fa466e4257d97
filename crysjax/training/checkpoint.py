"""Checkpoints: the state of a run (orbax) and models to hand over (one file: config and half-precision leaves)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import ml_dtypes
import numpy as np

FORMAT = 1


def exists(folder: str | Path) -> bool:
    """Whether a run in this folder can be resumed."""
    return (Path(folder) / "checkpoints").exists() and bool(_steps(folder))


def _steps(folder: str | Path) -> list[int]:
    return sorted(int(p.name) for p in (Path(folder) / "checkpoints").iterdir() if p.name.isdigit())


def save(folder: str | Path, state: Any, metadata: dict, *, keep: int = 2) -> None:
    """Write the state as `folder/checkpoints/<step>`, whole or not at all, and keep the newest few."""
    import orbax.checkpoint as ocp

    root = (Path(folder) / "checkpoints").resolve()
    root.mkdir(parents=True, exist_ok=True)
    step = int(state.step)
    with ocp.StandardCheckpointer() as writer:
        writer.save(root / str(step), jax.tree.map(np.asarray, state), force=True)
    (Path(folder) / "config.json").write_text(json.dumps(metadata | {"format": FORMAT}, indent=1))
    for old in _steps(folder)[:-keep]:
        for path in sorted((root / str(old)).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (root / str(old)).rmdir()


def restore(folder: str | Path, like: Any) -> Any:
    """The newest state in the folder, with the structure and shapes of `like`."""
    import orbax.checkpoint as ocp

    path = (Path(folder) / "checkpoints").resolve() / str(_steps(folder)[-1])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    try:
        with ocp.StandardCheckpointer() as reader:
            found = reader.restore(path, jax.tree.map(np.zeros_like, jax.tree.map(np.asarray, like)))
    except ValueError as error:
        raise ValueError(
            f"{path}: this run was made with other settings; use a new folder ({str(error)[:200]})"
        ) from None
    return jax.tree.map(lambda leaf, shape: jax.numpy.asarray(leaf, shape.dtype), found, target)


def export(path: str | Path, config: dict, params: Any) -> Path:
    """Write a model as one `.npz`: its config (which rebuilds it) and its leaves in bfloat16."""
    leaves = {_name(p): np.asarray(v).astype(ml_dtypes.bfloat16).view(np.uint16) for p, v in _flat(params)}
    text = json.dumps(config | {"format": FORMAT})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, config=np.frombuffer(text.encode(), np.uint8), **leaves)
    return path


def read_config(path: str | Path) -> dict:
    """The config inside an exported model; one clear error for anything else or another version."""
    try:
        with np.load(path, allow_pickle=False) as file:
            config = json.loads(bytes(file["config"]).decode())
    except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: not a crysjax model ({error})") from None
    if config.get("format") != FORMAT:
        raise ValueError(f"{path}: model format {config.get('format')}, this version reads format {FORMAT}")
    return config


def read_params(path: str | Path) -> Any:
    """The leaves of an exported model as nested dictionaries of float32 arrays."""
    tree: dict = {}
    with np.load(path, allow_pickle=False) as file:
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
    return jax.tree_util.tree_flatten_with_path(params)[0]


def _name(path: tuple) -> str:
    return "/".join(str(entry.key) for entry in path)

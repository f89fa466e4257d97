"""`crysjax train`: a generator or property heads from a config, resumable, ending in one model file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import typer

from crysjax.config import parse_yaml, read_yaml
from crysjax.terminal import Stopped, say


def train(
    config: Path = typer.Argument(help="YAML, such as configs/mp_20_generator.yaml."),
    out: Path = typer.Option(..., help="Folder of the run; an interrupted run there is resumed."),
    change: list[str] = typer.Option([], "--set", help="Override a key: --set network.width=128."),
) -> None:
    """Train a generator, heads, a potential or a synthesizability model: metrics.jsonl, checkpoints, model.npz."""
    from crysjax.training import train as library

    settings = read_yaml(config) | dict(_override(text) for text in change)
    try:
        run, build = library.parse(settings)
        model = library.train(run, build, out)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from None
    except KeyboardInterrupt:
        raise Stopped(_kept(out)) from None
    say(f"{model}: done")


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    with contextlib.suppress(ValueError):
        if equals:
            return key.strip(), parse_yaml(value)
    raise ValueError(f"--set {text}: expected KEY=VALUE, the value as in YAML")


def _kept(out: Path) -> str:
    from crysjax.models import checkpoint

    if not checkpoint.exists(out):
        return f"no checkpoint was written to {out} yet; the same command begins again"
    return f"step {checkpoint.newest(out)} in {out} is kept; the same command goes on from there"

"""`crysjax evaluate`: how good are samples, next to what no learning at all would give."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crysjax.cli.data import read_part

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset

FLOORS = ("random template", "nearest template", "twin", "twin or nearest template")


def evaluate(
    samples: Path | None = typer.Argument(None, help="Crystals to judge; left out, only floors are computed."),
    match: str = typer.Option("", help="PATH[:SPLIT] of the true structures, row by row: structure prediction."),
    train: str = typer.Option("", help="PATH[:SPLIT] of the training data: for novelty, and for the floors."),
    floors: bool = typer.Option(True, help="Compute the no-learning floors of --match from --train."),
    seed: int = typer.Option(0, help="Of the floors that draw."),
    processes: int = typer.Option(2, min=1, help="For StructureMatcher."),
    out: Path | None = typer.Option(None, help="Folder for metrics.json and structures.csv (a row a structure)."),
) -> None:
    """Validity, uniqueness and novelty of samples; with --match, match rate and RMSE beside the floors."""
    if samples is None and not (match and train):
        raise ValueError("evaluate: nothing to do; give SAMPLES, or --match and --train for the floors")
    from crysjax.evaluation.matching import CDVAE

    tolerance = f"StructureMatcher stol {CDVAE.stol}, angle {CDVAE.angle_degree}°, ltol {CDVAE.ltol}"
    metrics: dict[str, Any] = {"tolerances": tolerance}
    columns: dict[str, Any] = {}
    found = None if samples is None else read_part(str(samples))
    known = read_part(train) if train else None
    truth = read_part(match) if match else None
    if found is not None:
        _judge(found, known, processes, metrics, columns)
    if truth is not None:
        if found is not None:
            metrics["match"] = _match(found, truth, processes, columns)
        if known is not None and floors:
            metrics["floors"] = {name: value for name, value in _floors(known, truth, seed, processes)}
    _show(metrics, known)
    if out is not None:
        _write(out, metrics, columns, found)


def _judge(found: Dataset, known: Dataset | None, processes: int, metrics: dict, columns: dict) -> None:
    """Shares of valid, unique and new crystals, and a column a structure of each."""
    import numpy as np

    from crysjax.evaluation import matching
    from crysjax.evaluation.validity import validity

    columns |= {f"{name}_valid" if name != "valid" else name: ok for name, ok in validity(found).items()}
    group = matching.groups(found, processes=processes)
    columns["first_of_its_kind"] = group == np.arange(len(found))
    if known is not None:
        columns["novel"] = matching.novel(found, known, processes=processes)
    metrics["crystals"] = len(found)
    metrics |= {name: float(np.mean(ok)) for name, ok in columns.items()}
    metrics["unique"] = metrics.pop("first_of_its_kind")


def _match(found: Dataset, truth: Dataset, processes: int, columns: dict) -> dict[str, float]:
    from crysjax.evaluation import matching

    if len(found) != len(truth):
        raise ValueError(f"--match: {len(found)} samples, but {len(truth)} true structures; expected one each")
    result = matching.match_pairs(truth, found, processes=processes)
    columns["rms"] = result.best
    return {"rate": result.rate, "rmse": result.rmse}


def _floors(known: Dataset, truth: Dataset, seed: int, processes: int):
    """(name, match rate, RMSE and the share of rows that the floor has an answer for) of each floor."""
    from crysjax.evaluation import floors, matching

    make = dict(zip(FLOORS, (
        lambda: floors.random_template(known, truth, seed=seed), lambda: floors.nearest_template(known, truth),
        lambda: floors.twin(known, truth), lambda: floors.twin_or_nearest(known, truth),
    )))  # fmt: skip
    for name, candidates in make.items():
        given = candidates()
        offered = float(given.properties["found"].mean())
        if not offered or (name == FLOORS[3] and not floors.twin(known, truth).properties["found"].any()):
            continue
        result = matching.match_pairs(truth, given, processes=processes)
        yield name, {"rate": result.rate, "rmse": result.rmse, "offered": offered}


def _show(metrics: dict[str, Any], known: Dataset | None) -> None:
    """The table for people."""
    typer.echo(metrics["tolerances"])
    names = {"crystals": "crystals", "structure_valid": "structurally valid", "composition_valid": "SMACT valid",
             "valid": "both", "unique": "unique", "novel": "novel"}  # fmt: skip
    for key, said in names.items():
        if key in metrics:
            value = metrics[key]
            typer.echo(f"  {said:28s}{value:>8d}" if key == "crystals" else f"  {said:28s}{value:>8.2%}")
    lines = [("samples", metrics["match"])] if "match" in metrics else []
    lines += [(f"floor: {name}", value) for name, value in metrics.get("floors", {}).items()]
    if lines:
        typer.echo(f"  {'one try a row':36s}{'match':>9s}{'RMSE':>8s}{'offered':>9s}")
    for name, value in lines:
        offered = f"{value['offered']:>9.1%}" if "offered" in value else ""
        typer.echo(f"  {name:36s}{value['rate']:>9.1%}{value['rmse']:>8.3f}{offered}")
    if "match" in metrics and "floors" not in metrics:
        typer.echo("  no floors beside this match rate: give --train to see what no learning would reach")


def _write(out: Path, metrics: dict[str, Any], columns: dict[str, Any], found: Dataset | None) -> None:
    from crysjax.data import files

    files.write(out / "metrics.json", json.dumps(metrics, indent=1))
    if found is None:
        return
    with files.whole(out / "structures.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns])
        writer.writerows([name, *(_plain(c[i]) for c in columns.values())] for i, name in enumerate(found.ids))


def _plain(value: Any) -> Any:
    return int(value) if value.dtype == bool else f"{float(value):.6g}"

"""`crysjax data`: make a data set file, look at it, and look for leaks between its splits."""

from __future__ import annotations

import json
from pathlib import Path

import typer

app = typer.Typer(help="Prepare, describe and audit data sets.", no_args_is_help=True)


@app.command()
def prepare(
    inputs: list[str] = typer.Argument(help="Files or folders to read, each PATH or PATH:SPLIT (data.csv:train)."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out entries that cannot be read; they are counted."),
    note: str = typer.Option("", help="Kept in the provenance: source, licence."),
) -> None:
    """Read CIF, POSCAR, extxyz, ASE databases, CDVAE's CSV and npz layouts into one compact file."""
    from crysjax.data import io

    dataset = io.prepare([_with_split(text) for text in inputs], out, skip_bad=skip_bad, note=note)
    parts = dataset.provenance.get("parts", [dataset.provenance])
    skipped = [row for part in parts for row in part.get("skipped", [])]
    for row in skipped:
        typer.echo(f"skipped {row['file']}: entry {row['entry']}: {row['reason']}", err=True)
    typer.echo(f"{out}: {len(dataset)} crystals, {len(skipped)} skipped")


def _with_split(text: str) -> tuple[str, str]:
    path, colon, split = text.rpartition(":")
    return (path, split) if colon and not Path(text).exists() else (text, "")


@app.command()
def info(path: Path = typer.Argument(help="A data set file, or anything that `prepare` reads.")) -> None:
    """Print what a data set holds, as JSON."""
    from crysjax.data import datasets, io

    typer.echo(json.dumps(datasets.info(io.read(path)), indent=1))

"""`crysjax judge`: another opinion on crystals, by a calculator that had no part in finding them.

Answers are written one by one, so that nothing is lost when it stops, and the same command goes on where it stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from crysjax.data.readers.part import read_part
from crysjax.terminal import Stopped, bar, printable, say


def judge(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    by: str = typer.Option(..., help="chgnet, espresso, gpaw, emt, a potential's file, or file.py:name; +d3 adds D3."),
    out: Path = typer.Option(..., help="Folder for answers.csv and crystals/ID.cif."),
    relax: bool = typer.Option(True, help="Relax with it first; otherwise crystals are evaluated as they are."),
    cell: bool = typer.Option(True, help="Relax the cell too, or keep it fixed."),
    fmax: float = typer.Option(0.05, min=0, help="Largest force that counts as relaxed, eV/Å."),
    steps: int = typer.Option(200, min=1, help="Maximum number of steps per crystal."),
    references: Path = typer.Option(
        None, help="JSON of the elements' energies at its level of theory, for formation energies."
    ),
    timeout: float = typer.Option(600.0, min=0, help="Time limit per crystal, seconds."),
    memory_gb: float = typer.Option(None, min=0, help="Memory limit per crystal, GB."),
    disk_gb: float = typer.Option(10.0, min=0, help="Disk limit per crystal, GB."),
    retries: int = typer.Option(0, min=0, help="How often a failed crystal is tried again."),
    setting: list[str] = typer.Option([], help="KEY=VALUE of the calculator, VALUE in JSON; may be repeated."),
) -> None:
    """Ask another calculator about crystals: a second potential or DFT, each crystal in its own process with limits."""
    from crysjax.oracles import calculators, hosted, opinions

    known = calculators.named(by, dict(map(_setting, setting)))
    dataset, elements = read_part(crystals), None if references is None else opinions.read_references(references)
    how = hosted.HostedRelax(fmax, steps, cell) if relax else None
    out.mkdir(parents=True, exist_ok=True)
    question = {"by": by, "level": list(known.level), "settings": json.loads(json.dumps(known.settings)),
                "relax": list(how or ()), "references": str(references or "")}  # fmt: skip
    left, done = opinions.left(dataset, out, question)
    workplace = hosted.host(
        known.make,
        settings=known.settings,
        relax=how,
        timeout_seconds=timeout,
        memory_gb=memory_gb,
        disk_gb=disk_gb,
        retries=retries,
    )
    try:
        with bar(f"judge by {by}") as advance:
            workplace.ask(left, opinions.writer(left, out, elements, lambda k: advance(done + k, len(dataset))))
    except KeyboardInterrupt:
        raise Stopped(f"{out} keeps what is known, the same command goes on") from None
    finally:
        workplace.close()
    say(f"{out / 'answers.csv'}: {_said(out, known.level)}")


def _setting(text: str) -> tuple[str, Any]:
    from crysjax.data.readers import reading

    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--setting {text}: expected KEY=VALUE")
    try:
        return name, reading.parse_json(value)
    except ValueError:
        return name, value


def _said(out: Path, level: Any) -> str:
    from crysjax.oracles import opinions

    rows = opinions.answers(out / "answers.csv")
    failed = [row for row in rows if row["reason"]]
    for row in failed:
        say(f"{printable(row['id'])}: {row['reason']}", err=True)
    seconds = sum(float(row["seconds"]) for row in rows)
    return f"{len(rows)} crystals, {len(failed)} with a reason, {seconds:.0f} s, {level.theory}"

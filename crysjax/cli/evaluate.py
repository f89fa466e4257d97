"""`crysjax evaluate`: how good are samples, stage by stage, next to what no learning at all would give."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from crysjax.terminal import Stopped, say


def evaluate(
    samples: list[Path] = typer.Argument(None, help="Sets of crystals to judge; left out, only floors are computed."),
    match: str = typer.Option("", help="PATH[:SPLIT] of the true structures, row by row: structure prediction."),
    train: str = typer.Option("", help="PATH[:SPLIT] of the training data: for novelty, and for the floors."),
    reference: str = typer.Option("", help="PATH[:SPLIT] of held-out crystals, to compare with; --match if not given."),
    known: list[str] = typer.Option([], help="PATH[:SPLIT] of further known crystals, which are not novel."),
    hull: list[str] = typer.Option([], help="Entries of a convex hull: data set, MatterGen cache, CSV or JSON table."),
    potential: str = typer.Option("", help="Potential, such as student, that relaxes for energies above --hull."),
    dft: str = typer.Option("", help="CSV of id and formation_energy_ev_per_atom by DFT, for energies above --hull."),
    level: str = typer.Option("", help="Level of theory of --dft; an error where it is not that of --hull."),
    margin: float = typer.Option(0.1, min=0, help="Energy above the hull up to which a crystal is stable, eV/atom."),
    target: Path | None = typer.Option(
        None, help="A plan of `design`: its heads predict whether samples lie in its windows."
    ),
    heads: str = typer.Option(
        "", help="Heads that predict the property that samples were asked for, such as your own."
    ),
    within: float | None = typer.Option(
        None, min=0, help="With --heads: largest error that counts as a success, in the property's unit."
    ),
    synthesizability: str = typer.Option("", help="A model of kind synthesizability."),
    floors: bool = typer.Option(True, help="Compute floors (baselines without learning) for --match from --train."),
    match_only: bool = typer.Option(False, "--match-only", help="Only the match rate of --match, with its floors."),
    ceiling: bool = typer.Option(True, help="Also judge one half of the real crystals against the other."),
    seed: int = typer.Option(0, help="Random seed of the floors, and of the halves of --ceiling."),
    processes: int = typer.Option(2, min=1, help="Processes for StructureMatcher and spglib."),
    out: Path | None = typer.Option(None, help="Folder for the report, metrics.json, table.tex and a CSV per set."),
) -> None:
    """Evaluate sets of crystals in stages, side by side; with --match, match rate and RMSE beside baselines."""
    from crysjax.front import judging

    try:
        found = judging.evaluate(
            samples or None, match=match or None, train=train or None, reference=reference or None, known=known,
            hull=hull, potential=potential, dft=dft, level=level, margin=margin, target=target,
            synthesizability=synthesizability, floors=floors, match_only=match_only, ceiling=ceiling, seed=seed,
            processes=processes, heads=heads, within=within, out=out,
            progress=_progress, command=" ".join(["crysjax", *sys.argv[1:]]),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Stopped(f"finished stages are kept in {out}; the same command goes on" if out else "") from None
    for name, requests in found.asked.items():
        _show_asked(name, requests, out)
    if found.match:
        missing = [] if not samples else ["--floors"] * (not floors) + ["--train"] * (not train)
        _show_match(found.match, " and ".join(missing))
    _show(found.totals, found.findings)
    if out is not None and found.totals:
        say(f"{out / 'report.html'}: side by side, with the reasons")


def _show_asked(name: str, found: list, out: Path | None) -> None:
    from crysjax.evaluation import requests

    for one in found:
        say(f"{name}: {requests.told(one)}")
    if out is not None:
        say(f"{out / name / 'asked.html'}: what was asked and what came")


def _progress(text: str) -> None:
    say(text, err=True)


def _show_match(lines: dict[str, dict], missing: str) -> None:
    from crysjax.crystallography.matching import CDVAE
    from crysjax.evaluation.stages import said

    width = max(map(len, [*lines, "one try per row"]))
    say(f"match rate, {said(CDVAE)}\n  {'one try per row':{width}s}{'match':>10s}{'RMSE':>8s}{'offered':>10s}")
    for name, value in lines.items():
        rmse = "–" if value["rmse"] != value["rmse"] else f"{value['rmse']:.3f}"
        offered = _percent(value["offered"]) if "offered" in value else ""
        say(f"  {name:{width}s}{_percent(value['rate']):>10s}{rmse:>8s}{offered:>10s}".rstrip())
    if missing:
        say(f"  no floors beside this match rate: give {missing} to see what no learning would reach")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _show(found: dict[str, dict], warned: dict[str, list]) -> None:
    """The tables for people."""
    from crysjax.evaluation.failures import detectors
    from crysjax.reports.set_report import number

    for name, totals in found.items():
        say(f"{name}: {totals['crystals']} crystals, {totals['not_read']} could not be read")
        for row in totals["ledger"]:
            say(f"  {row['stage']:10s}{row['passed']:>7d} of {row['entered']:<7d} {row['level']}")
        metrics = totals["metrics"] | totals.get("distances", {})
        width = max(map(len, metrics), default=0)
        for metric, value in metrics.items():
            say(f"  {metric:{width}s}  {number(metric, value)}")
        for kind, names in totals["flags"].items():
            said = "; ".join(f"{what} ({count})" for what, count in names.items())
            say(f"  unusual {kind}: {said or 'none'}")
        for finding in warned.get(name, []):
            say(f"  {detectors.text([finding])}")
        if totals["not_measured"]:
            say("  not measured: " + "; ".join(f"{k} (needs {v})" for k, v in totals["not_measured"].items()))

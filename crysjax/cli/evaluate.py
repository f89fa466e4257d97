"""`crysjax evaluate`: how good are samples, stage by stage, next to what no learning at all would give."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from crysjax.data.readers.part import read_part
from crysjax.terminal import Stopped, say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.data.datasets import Dataset
    from crysjax.evaluation.totals import Judged

FLOORS = ("random template", "nearest template", "twin", "twin or nearest template")
CEILING = "ceiling"  # one half of the real crystals, judged against the other
RESERVED = (CEILING, "relaxed", "reference", "")  # names that stand for something else in reports or folders
MOST_OF_CEILING = 1000


def evaluate(
    samples: list[Path] = typer.Argument(None, help="Sets of crystals to judge; left out, only floors are computed."),
    match: str = typer.Option("", help="PATH[:SPLIT] of the true structures, row by row: structure prediction."),
    train: str = typer.Option("", help="PATH[:SPLIT] of the training data: for novelty, and for the floors."),
    reference: str = typer.Option("", help="PATH[:SPLIT] of held-out crystals, to compare with; --match if not given."),
    known: list[str] = typer.Option([], help="PATH[:SPLIT] of further crystals that a new one may not equal."),
    hull: list[str] = typer.Option([], help="Entries of a convex hull: data set, MatterGen cache, CSV or JSON table."),
    potential: str = typer.Option("", help="Relax with it, for energies above --hull; such as student."),
    dft: str = typer.Option("", help="CSV of id and formation_energy_ev_per_atom by DFT, for energies above --hull."),
    level: str = typer.Option("", help="Level of theory of --dft, where it is not the hull's; they may not differ."),
    margin: float = typer.Option(0.1, min=0, help="Of stability, eV/atom above the hull."),
    target: Path | None = typer.Option(None, help="A plan of `design`: are its windows met, by its heads?"),
    synthesizability: str = typer.Option("", help="A model of kind synthesizability."),
    floors: bool = typer.Option(True, help="Compute the no-learning floors of --match from --train."),
    match_only: bool = typer.Option(False, "--match-only", help="Only the match rate of --match, with its floors."),
    ceiling: bool = typer.Option(True, help="Judge one half of the real crystals against the other as well."),
    seed: int = typer.Option(0, help="Of the floors that draw, and of the ceiling's halves."),
    processes: int = typer.Option(2, min=1, help="For StructureMatcher and spglib."),
    out: Path | None = typer.Option(None, help="Folder for the report, metrics.json, table.tex and a CSV a set."),
) -> None:
    """Judge sets of crystals in stages, side by side; with --match, match rate and RMSE beside the floors."""
    if not samples and not (match and train):
        raise ValueError("evaluate: nothing to do; give SAMPLES, or --match and --train for the floors")
    if match_only and not match:
        raise ValueError("--match-only: expected --match, the true structures")
    from crysjax.campaign import questions as oracles

    parts = (("train", train), ("match", match), ("reference", reference))
    given = {part: read_part(text) if text else None for part, text in parts}
    with TemporaryDirectory() as spare:  # without --out nothing is kept
        sets = {name: oracles.read_samples(path) for name, path in _names(samples or []).items()}
        try:
            if given["match"] is not None:
                found = {name: crystals for name, (crystals, _) in sets.items()}
                _structure_prediction(found, given["match"], given["train"] if floors else None, seed, processes, out)
            if sets and not match_only:
                questions = oracles.questions(
                    given["train"], _held_out(given), {k: read_part(k) for k in known}, hull, potential, dft, level,
                    margin, target, synthesizability, processes, out or Path(spare),
                )  # fmt: skip
                _judge(sets, questions, given, ceiling, seed, out)
        except KeyboardInterrupt:
            raise Stopped(f"finished stages are kept in {out}; the same command goes on" if out else "") from None


def _held_out(given: dict) -> Dataset | None:
    """What samples are compared with, apart from the training data: the reference, else the true structures."""
    from crysjax.evaluation import kept

    name = "reference" if given["reference"] is not None else "match"
    if given[name] is None or given["train"] is None or kept.digest(given[name]) != kept.digest(given["train"]):
        return given[name]
    _progress(
        f"--{name}: the same crystals as --train, so nothing is held out: no leakage or calibration is looked for"
    )
    return None


def _names(paths: list[Path]) -> dict[str, Path]:
    """A name a set: the file's, with its folder's where two would be the same."""
    from collections import Counter

    whole = [path if path.name.strip(".") else path.resolve() for path in paths]  # `.` and `..` name no folder
    stems = Counter(path.name.split(".")[0] for path in whole)
    names = [p.name.split(".")[0] if stems[p.name.split(".")[0]] == 1 else f"{p.parent.name}-{p.name}" for p in whole]
    for name, path in zip(names, paths):
        if name.lower() in RESERVED:
            raise ValueError(f"evaluate: {path}: a set cannot be named {name!r} here; rename the file")
        if [n.lower() for n in names].count(name.lower()) > 1:
            raise ValueError(f"evaluate: {path}: two sets of this name; expected sets that can be told apart")
    return dict(zip(names, paths))


def _judge(sets: dict, ask: Any, given: dict, with_ceiling: bool, seed: int, out: Path | None) -> None:
    """Judge, print and write; each set's own files as soon as it is judged."""
    from crysjax.evaluation import judge, totals
    from crysjax.evaluation.failures import findings

    judged, found, warned = [], {}, {}
    real = ask.reference if ask.reference is not None else given["train"]
    drawn = None if real is None else judge.blank("reference", _at_most(real, 4 * MOST_OF_CEILING, seed), ask.processes)
    for name, (crystals, skipped) in sets.items():
        judged.append(judge.judge(name, crystals, skipped, ask, _progress))
        found[name] = totals.totals(judged[-1], real, None if drawn is None else drawn.space_group)
        if drawn is not None:
            _progress(f"{name}: detectors")
            apart = ask.reference is not None
            warned[name] = findings.findings(judged[-1], drawn, given["train"], ask.predict, held_out=apart)
        _write_rows(out, judged[-1])
    if with_ceiling and real is not None and given["match"] is None and len(real) > 3:
        ceiling, other = _ceiling(real, given["train"], ask, len(judged[0].samples), seed)
        judged.append(ceiling)
        found[CEILING] = totals.totals(ceiling, other, drawn.space_group)
    _show(found, warned)
    if out is not None:
        _write_report(out, judged, found, warned, drawn)


def _at_most(dataset: Dataset, count: int, seed: int) -> Dataset:
    import numpy as np

    from crysjax.data.datasets import take

    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count])
    return take(dataset, chosen)


def _ceiling(real: Dataset, train: Dataset | None, ask: Any, size: int, seed: int) -> tuple[Judged, Dataset]:
    """One half of the real crystals judged against the other, as if it had been generated; and that other half."""
    from crysjax.data.datasets import take
    from crysjax.evaluation import judge

    mine, other = judge.halves(real, most=min(size, MOST_OF_CEILING), seed=seed)
    mine, other = take(real, mine), take(real, other)
    known = {"the other half": other} | ({} if train is None or train is real else {"train": train})
    ask = ask._replace(folder=ask.folder / CEILING, known=known, reference=other, target=None, synthesizability=None)
    return judge.judge(CEILING, mine, [], ask, _progress), other


def _progress(text: str) -> None:
    say(text, err=True)


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


def _write_rows(out: Path | None, judged: Judged) -> None:
    """`NAME/structures.csv`: one row per structure with every answer, and the entries that could not be read."""
    from crysjax.data import files
    from crysjax.data.reasons import code

    if out is None:
        return
    columns = _columns(judged)
    with files.whole(out / judged.name / "structures.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns, "reason", "code"])
        failed = [
            next((v.reason[i] for v in judged.verdicts.values() if v.reason[i]), "") for i in range(len(judged.samples))
        ]
        for i, name in enumerate(judged.samples.ids):
            writer.writerow([name, *(_plain(column[i]) for column in columns.values()), failed[i], code(failed[i])])
        unread = [[row["entry"] or row["file"], *[""] * len(columns), row["reason"]] for row in judged.skipped]
        writer.writerows([*row, "not_read"] for row in unread)


def _columns(judged: Judged) -> dict[str, np.ndarray]:
    from crysjax.evaluation import stages

    columns = {}
    for stage, said in judged.verdicts.items():
        columns |= {stage: said.passed} | {name: values for name, values in said.columns.items() if values.ndim == 1}
    columns["passed_all"] = [*stages.passed_so_far(judged.verdicts).values()][-1]
    columns["space_group"] = judged.space_group
    if judged.synthesizability is not None:
        columns["synthesizability"] = judged.synthesizability.value.reshape(-1)
    return columns


def _plain(value: Any) -> Any:
    return int(value) if value.dtype.kind in "biu" else f"{float(value):.6g}" if value.dtype.kind == "f" else value


def _write_report(out: Path, judged: list[Judged], found: dict, warned: dict, drawn: Judged | None) -> None:
    from crysjax.data import files
    from crysjax.reports import set_report

    told = {name: [f._replace(worst=f.worst.tolist())._asdict() for f in said] for name, said in warned.items()}
    everything = {name: totals | {"findings": told.get(name, [])} for name, totals in found.items()}
    files.write(out / "metrics.json", json.dumps(_finite(everything), indent=1))
    files.write(out / "table.tex", set_report.latex(found))
    command = " ".join(["crysjax", *sys.argv[1:]])
    title = f"crysjax evaluate: {out.name}"
    page = set_report.render(judged, found, warned, title=title, command=command, reference=drawn)
    files.write(out / "report.html", page)
    say(f"{out / 'report.html'}: side by side, with the reasons")


def _finite(value: Any) -> Any:
    """The same with null for what is not finite, as JSON has it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def _structure_prediction(
    sets: dict[str, Dataset], truth: Dataset, known: Dataset | None, seed: int, processes: int, out: Path | None
) -> None:
    """Match rate and RMSE of each set beside the floors."""
    from crysjax.crystallography.matching import CDVAE
    from crysjax.data import files
    from crysjax.evaluation.stages import said

    lines = {}
    for name, found in sets.items():
        folder = out and (out if len(sets) == 1 else out / name)
        lines["samples" if len(sets) == 1 else name] = _match(name, found, truth, processes, folder)
    if known is not None:
        lines |= {f"floor: {name}": value for name, value in _floors(known, truth, seed, processes)}
    width = max(map(len, [*lines, "one try per row"]))
    say(f"match rate, {said(CDVAE)}\n  {'one try per row':{width}s}{'match':>10s}{'RMSE':>8s}{'offered':>10s}")
    for name, value in lines.items():
        rmse = "–" if value["rmse"] != value["rmse"] else f"{value['rmse']:.3f}"
        offered = _percent(value["offered"]) if "offered" in value else ""
        say(f"  {name:{width}s}{_percent(value['rate']):>10s}{rmse:>8s}{offered:>10s}".rstrip())
    if sets and known is None:
        say("  no floors beside this match rate: give --train to see what no learning would reach")
    if out is not None:
        files.write(out / "match.json", json.dumps(_finite({"tolerances": said(CDVAE), **lines}), indent=1))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _match(name: str, found: Dataset, truth: Dataset, processes: int, out: Path | None) -> dict[str, float]:
    from crysjax.crystallography import matching
    from crysjax.data import files

    if len(found) != len(truth):
        raise ValueError(f"--match: {name}: {len(found)} samples, but {len(truth)} true structures; expected one each")
    result = matching.match_pairs(truth, found, processes=processes)
    if out is not None:
        rows = [(name, "" if rms != rms else f"{rms:.6g}") for name, rms in zip(truth.ids, result.best)]
        files.write(out / "match.csv", files.csv_text(["id", "rms"], rows))
    return {"rate": result.rate, "rmse": result.rmse}


def _floors(known: Dataset, truth: Dataset, seed: int, processes: int):
    """(name, match rate, RMSE and the share of rows that the floor has an answer for) of each floor."""
    from crysjax.crystallography import matching
    from crysjax.retrieval import floors

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

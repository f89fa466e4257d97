"""Sets of crystals judged side by side: stages, totals, findings and the report; match rates beside the floors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.crystallography import matching
from crysjax.crystallography.matching import CDVAE
from crysjax.data import files
from crysjax.data.datasets import Dataset, take
from crysjax.data.reasons import code
from crysjax.evaluation import all_stages, stages, totals
from crysjax.evaluation.all_stages import Questions
from crysjax.evaluation.failures import findings
from crysjax.evaluation.totals import JudgedSet
from crysjax.reports import set_report
from crysjax.retrieval import floors

FLOORS = ("random template", "nearest template", "twin", "twin or nearest template")
CEILING = "ceiling"  # one half of the real crystals, judged against the other
RESERVED = (CEILING, "relaxed", "reference", "")  # names that stand for something else in reports or folders
MOST_OF_CEILING = 1000

Say = Callable[[str], None]
"""Told what is being done."""


def judged_sets(
    sets: Mapping[str, tuple[Dataset, list[dict]]], ask: Questions, train: Dataset | None, seed: int,
    out: Path | None, say: Say, *, with_ceiling: bool, command: str = "",
) -> tuple[dict[str, dict], dict[str, list]]:  # fmt: skip
    """Totals and findings of each set, written as soon as it is judged; `command` is what the report says made it."""
    judged, found, warned = [], {}, {}
    real = ask.reference if ask.reference is not None else train
    drawn = (
        None
        if real is None
        else all_stages.blank("reference", _at_most(real, 4 * MOST_OF_CEILING, seed), ask.processes)
    )
    for name, (crystals, skipped) in sets.items():
        judged.append(all_stages.judge(name, crystals, skipped, ask, say))
        found[name] = totals.totals(judged[-1], real, None if drawn is None else drawn.space_group)
        if drawn is not None:
            say(f"{name}: detectors")
            apart = ask.reference is not None
            warned[name] = findings.findings(judged[-1], drawn, train, ask.predict, held_out=apart)
        _write_rows(out, judged[-1])
    if with_ceiling and real is not None and len(real) > 3:
        ceiling, other = _ceiling(real, train, ask, len(judged[0].samples), seed, say)
        judged.append(ceiling)
        found[CEILING] = totals.totals(ceiling, other, drawn.space_group)
    if out is not None:
        _write_report(out, judged, found, warned, drawn, command)
    return found, warned


def _at_most(dataset: Dataset, count: int, seed: int) -> Dataset:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count])
    return take(dataset, chosen)


def _ceiling(
    real: Dataset, train: Dataset | None, ask: Questions, size: int, seed: int, say: Say
) -> tuple[JudgedSet, Dataset]:
    """One half of the real crystals judged against the other, as if it had been generated; and that other half."""
    mine, other = all_stages.halves(real, most=min(size, MOST_OF_CEILING), seed=seed)
    mine, other = take(real, mine), take(real, other)
    known = {"the other half": other} | ({} if train is None or train is real else {"train": train})
    ask = ask._replace(folder=ask.folder / CEILING, known=known, reference=other, target=None, synthesizability=None)
    return all_stages.judge(CEILING, mine, [], ask, say), other


def _write_rows(out: Path | None, judged: JudgedSet) -> None:
    """`NAME/structures.csv`: one row per structure with every answer, and the entries that could not be read."""
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


def _columns(judged: JudgedSet) -> dict[str, np.ndarray]:
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


def _write_report(
    out: Path, judged: list[JudgedSet], found: dict, warned: dict, drawn: JudgedSet | None, command: str
) -> None:
    told = {name: [f._replace(worst=f.worst.tolist())._asdict() for f in said] for name, said in warned.items()}
    everything = {name: totals | {"findings": told.get(name, [])} for name, totals in found.items()}
    files.write(out / "metrics.json", json.dumps(_finite(everything), indent=1))
    files.write(out / "table.tex", set_report.latex(found))
    title = f"crysjax evaluate: {out.name}"
    page = set_report.render(judged, found, warned, title=title, command=command, reference=drawn)
    files.write(out / "report.html", page)


def _finite(value: Any) -> Any:
    """The same with null for what is not finite, as JSON has it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def structure_prediction(
    sets: Mapping[str, Dataset], truth: Dataset, known: Dataset | None, seed: int, processes: int, out: Path | None
) -> dict[str, dict]:
    """Match rate and RMSE of each set beside the floors, which look up from `known`."""
    lines = {}
    for name, found in sets.items():
        folder = out and (out if len(sets) == 1 else out / name)
        lines["samples" if len(sets) == 1 else name] = _match(name, found, truth, processes, folder)
    if known is not None:
        lines |= {f"floor: {name}": value for name, value in _floors(known, truth, seed, processes)}
    if out is not None:
        files.write(out / "match.json", json.dumps(_finite({"tolerances": stages.said(CDVAE), **lines}), indent=1))
    return lines


def _match(name: str, found: Dataset, truth: Dataset, processes: int, out: Path | None) -> dict[str, float]:
    if len(found) != len(truth):
        raise ValueError(f"--match: {name}: {len(found)} samples, but {len(truth)} true structures; expected one each")
    result = matching.match_pairs(truth, found, processes=processes)
    if out is not None:
        rows = [(name, "" if rms != rms else f"{rms:.6g}") for name, rms in zip(truth.ids, result.best)]
        files.write(out / "match.csv", files.csv_text(["id", "rms"], rows))
    return {"rate": result.rate, "rmse": result.rmse}


def _floors(known: Dataset, truth: Dataset, seed: int, processes: int) -> Iterator[tuple[str, dict[str, float]]]:
    """(name, match rate, RMSE and the share of rows that the floor has an answer for) of each floor."""
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

"""`crysjax compare`: generators of every family on one ground, with the floors beside them."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from crysjax.cli import data_sets
from crysjax.config import checked, choice, read_yaml
from crysjax.models import cells
from crysjax.terminal import say

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset
    from crysjax.evaluation.metrics.distributions import Interval
    from crysjax.models.registry import Model
    from crysjax.reports.comparison import Line

TASKS = ("csp", "de novo")
FLOORS = ("random_template", "nearest_template", "twin", "twin_or_nearest")


class ComparePlan(NamedTuple):
    """One data set, one task, and who takes part."""

    name: str
    data: str
    task: str
    models: dict[str, str | dict]
    train_split: str
    split: str
    rows: int
    tries: int
    seeds: list[int]
    steps: list[int]
    retrieve: int
    floors: list[str]
    hull: list[str]
    potential: str


def plan_settings(
    *,
    data: str,
    models: dict,
    name: str = "",
    task: str = "csp",
    train_split: str = "train",
    split: str = "test",
    rows: int = 1000,
    tries: int = 1,
    seeds: list[int] = [0],  # noqa: B006  # never changed
    steps: list[int] = [],  # noqa: B006
    retrieve: int = 5,
    floors: list[str] = ["random_template", "nearest_template"],  # noqa: B006
    hull: list[str] = [],  # noqa: B006
    potential: str = "",
) -> ComparePlan:
    """The keys of a comparison.

    Args:
        data: a data set file with splits.
        models: name -> a training config (trained once, into the folder of the comparison), a trained model, or
            `{config: FILE, KEY: VALUE, ...}`, a config with some of its keys changed, or left out by `null`.
        name: name of the data set in the table; empty = that of its file.
        task: "csp", predicting the structure of given compositions, or "de novo", sampling without any.
        train_split: split that floors learn from and that novelty is counted against.
        split: split whose compositions are asked for, and whose crystals samples are compared with.
        rows: number of compositions asked for, the first of a fixed shuffle, or of crystals sampled.
        tries: candidates per composition.
        seeds: random seeds of sampling; more than one gives the spread between them.
        steps: numbers of sampler steps at which each model that has them is measured as well.
        retrieve: number of templates that a retrieval-based flow chooses among.
        floors: methods without learning to compare with in structure prediction, of `FLOORS`.
        hull: files and folders of entries of a convex hull, for the stability of samples; needs `potential`.
        potential: name or path of the potential that samples are relaxed with for their stability; needs `hull`.
    """
    if task not in TASKS:
        raise ValueError(f"task: {task!r}; expected {choice(task, TASKS)}")
    for floor in floors:
        if floor not in FLOORS:
            raise ValueError(f"floors: {floor!r}; expected {choice(floor, FLOORS)}")
    if min(rows, tries, retrieve, len(seeds), *steps, 1) < 1:
        raise ValueError("rows, tries, retrieve, steps: expected whole numbers of at least 1, and at least one seed")
    if bool(hull) != bool(potential):
        raise ValueError(f"{'potential' if hull else 'hull'}: energies above the hull need both hull and potential")
    for model, source in models.items():
        _source(model, source)
    return ComparePlan(name or Path(data).stem, data, task, dict(models), train_split, split, rows, tries, list(seeds),
                list(steps), retrieve, list(floors), list(hull), potential)  # fmt: skip


def compare(
    configs: list[Path] = typer.Argument(help="Comparisons, such as configs/compare/carbon_24.yaml."),
    out: Path = typer.Option(..., help="Folder for table.md, table.json, report.html and the models trained."),
) -> None:
    """Train or load, sample and evaluate models of every family: one table and one plot, with baselines."""
    from crysjax.data import files
    from crysjax.data.readers import reading
    from crysjax.reports import comparison

    plans = [_plan(path) for path in configs]
    for path, plan in zip(configs, plans):
        for text in (plan.data, *plan.hull):
            data_sets.need(path, text)
    with files.alone(out):
        lines, curves = _written(plans, out)
    page = comparison.render(lines, curves, command=" ".join(["crysjax", *sys.argv[1:]]))
    files.write(out / "report.html", page)
    say(reading.read_text(out / "table.md"))
    say(f"{out / 'report.html'}: the same with plots")


def _written(plans: list[ComparePlan], out: Path) -> tuple[list[Line], dict]:
    """All lines and curves, in the table after every row: nothing measured is lost."""
    from crysjax.data import files
    from crysjax.reports import comparison

    lines: list[Line] = []
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for plan in plans:
        for line in _lines(plan, out, curves.setdefault(f"{plan.name}, {plan.task}", {})):
            lines.append(line)
            files.write(out / "table.md", comparison.markdown(lines))
            about = {"plans": [p._asdict() for p in plans], "curves": curves}
            files.write(out / "table.json", comparison.as_json(lines, about))
    return lines, curves


def _plan(path: Path) -> ComparePlan:
    try:
        return plan_settings(**checked(plan_settings, read_yaml(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _lines(plan: ComparePlan, out: Path, curves: dict[str, list[tuple[int, float]]]) -> Iterator[Line]:
    import numpy as np

    from crysjax.data import datasets

    dataset = datasets.load(plan.data)
    train, asked = (datasets.where_split(dataset, s) for s in (plan.train_split, plan.split))
    if plan.task == "csp":
        asked = datasets.take(asked, np.random.default_rng(0).permutation(len(asked))[: plan.rows])
        yield from _floors(plan, train, asked)
    else:
        yield _substitution(plan, train, asked, out)
    for name, source in plan.models.items():
        yield _line(plan, name, _model_file(name, source, out), train, asked, out, curves)


def _model_file(name: str, source: str | dict, out: Path) -> str:
    """A trained model; a config is trained first, once: its folder is named by what the config and its data say."""
    import yaml

    from crysjax.cli import train
    from crysjax.data import files, names
    from crysjax.data.readers import reading

    config, changed = _source(name, source)
    if not config.endswith(".yaml"):
        return config
    settings = {key: value for key, value in (read_yaml(config) | changed).items() if value is not None}
    data = reading.digest(settings["data"]) if Path(str(settings.get("data"))).is_file() else ""
    said = hashlib.sha256(repr([*sorted(settings.items()), data]).encode()).hexdigest()
    made = out / "models" / f"{names.of(name)}-{said[:8]}" / "model.npz"
    if not made.exists():
        _say(f"{name}: training {config}")
        files.write(made.with_name("config.yaml"), yaml.safe_dump(settings))
        train.train(made.with_name("config.yaml"), made.parent, [])
        shutil.rmtree(made.parent / "checkpoints")
    return str(made)


def _source(name: str, source: str | dict) -> tuple[str, dict]:
    """What is trained or loaded, and the keys that are changed before."""
    config, changed = (source.get("config", ""), source) if isinstance(source, dict) else (source, {})
    changed = {key: value for key, value in changed.items() if key != "config"}
    if not config or (changed and not config.endswith(".yaml")):
        raise ValueError(f"models: {name}: expected a model, a config.yaml, or {{config: config.yaml, KEY: VALUE}}")
    return config, changed


def _line(
    plan: ComparePlan, name: str, source: str, train: Dataset, asked: Dataset, out: Path, curves: dict
) -> Line:  # fmt: skip
    from crysjax.data import names
    from crysjax.reports import comparison
    from crysjax.sampling import defaults

    model = defaults.load(source, plan.task == "csp")
    settings = model.config["settings"]
    found, seconds = [], 0.0
    for seed in plan.seeds:
        _say(f"{plan.name}, {plan.task}: {name}, seed {seed}")
        metrics, took = _measured(plan, model, train, asked, seed, out / "sets" / f"{names.of(name)}-{seed}")
        found.append(metrics)
        seconds += took / len(plan.seeds)
    means, spread = comparison.over_seeds(found)
    first = next(iter(means))
    if plan.steps and "steps" in _factory_settings(settings):
        for steps in plan.steps:
            _say(f"{plan.name}, {plan.task}: {name}, {steps} steps")
            other = defaults.load(source, plan.task == "csp", {"generator.steps": steps})
            metrics, _ = _measured(
                plan, other, train, asked, plan.seeds[0], out / "sets" / f"{names.of(name)}-{steps}-steps"
            )
            curves.setdefault(name, []).append((steps, metrics[first].value))
    facts = {
        "parameters": float(model.config["card"]["parameters"]),
        "training seconds": float(model.config["card"]["seconds"]),
        "ms a sample": 1e3 * seconds / (len(asked) * plan.tries if plan.task == "csp" else plan.rows),
    }
    return comparison.Line(plan.name, plan.task, name, settings.get("family", "iterative"), facts, means, spread)


def _factory_settings(settings: dict[str, Any]) -> set[str]:
    from crysjax.models import families

    return set(inspect.signature(families.factory(families.named(settings))).parameters)


def _measured(
    plan: ComparePlan, model: Model, train: Dataset, asked: Dataset, seed: int, folder: Path
) -> tuple[dict[str, Interval], float]:
    """Metrics of the samples of one seed, and the seconds that drawing them took, compilation included."""
    from crysjax.sampling import prediction, retrieved

    properties = len(model.config["properties"])
    if plan.task == "csp":
        views = (None,)
        if retrieved.looks_up(model.config):
            (known,), _ = cells.standard("templates", train)
            views = prediction.retrieved(known, asked, model.config, count=plan.retrieve, tries=plan.tries)
        tried = prediction.candidates(
            model.build, model.params, asked, properties=properties, tries=plan.tries, seed=seed, views=views
        )
        return prediction.match(asked, tried.sets), tried.seconds
    begun = time.perf_counter()
    known = retrieved.templates("templates", train) if retrieved.looks_up(model.config) else None
    drawn = prediction.free(model.build, model.params, model.config, plan.rows, seed=seed, templates=known)
    took = time.perf_counter() - begun
    return _judged(plan, drawn, train, asked, folder), took


def _floors(plan: ComparePlan, train: Dataset, asked: Dataset) -> Iterator[Line]:
    from crysjax.reports import comparison
    from crysjax.retrieval import floors
    from crysjax.sampling import prediction

    for name in plan.floors:
        _say(f"{plan.name}: floor {name}")
        tries = 1 if name != "random_template" else plan.tries
        made = [getattr(floors, name)(train, asked, **({"seed": k} if tries > 1 else {})) for k in range(tries)]
        metrics = prediction.match(asked, made)
        yield comparison.Line(plan.name, plan.task, name.replace("_", " "), "floor", {}, metrics)


def _substitution(plan: ComparePlan, train: Dataset, asked: Dataset, out: Path) -> Line:
    """What no learning gives: training structures with elements drawn by how often they replace one another."""
    from crysjax.reports import comparison
    from crysjax.retrieval import substitution

    drawn = substitution.substituted(train, plan.rows, seed=plan.seeds[0])
    metrics = _judged(plan, drawn, train, asked, out / "sets" / "substitution")
    return comparison.Line(plan.name, plan.task, "substitution", "floor", {}, metrics)


def _judged(plan: ComparePlan, drawn: Dataset, train: Dataset, reference: Dataset, folder: Path) -> dict[str, Interval]:
    """The stages of `crysjax evaluate`, stability if the plan has a hull, and distances of distributions."""
    from crysjax.campaign import questions
    from crysjax.evaluation import all_stages, totals

    ask = questions.questions(train, reference, {}, plan.hull, plan.potential, "", "", 0.1, None, "", 2, folder.parent)
    judged = all_stages.judge(folder.name, drawn, [], ask, _say)
    found = totals.totals(judged, reference)
    both = found["metrics"] | found["distances"]
    return {name: totals.Interval(**value) for name, value in both.items() if name in SHOWN}


SHOWN = (
    "validity", "structure validity (CDVAE)", "composition validity (CDVAE)", "uniqueness", "novelty", "stability",
    "stability, expected", "S.U.N.", "S.U.N., expected", "MSUN", "MSUN, expected",
    "COV-R (CDVAE)", "COV-P (CDVAE)", "P1 share", "no space group found",
    "distance of density_g_cm3", "distance of num_elements", "distance of formation_energy_ev_per_atom",
    "diversity",
)  # fmt: skip


def _say(text: str) -> None:
    say(text, err=True)

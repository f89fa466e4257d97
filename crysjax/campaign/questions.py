"""What `crysjax evaluate` asks about a set beyond what its files say: names on the command line become stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysjax.campaign.plan import read_plan
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers.part import read_part
from crysjax.models import references, registry
from crysjax.physics.hull.read_hull import read_hull
from crysjax.terminal import bar

if TYPE_CHECKING:
    import numpy as np

    from crysjax.data.datasets import Dataset
    from crysjax.evaluation.all_stages import Ask, Questions
    from crysjax.physics.hull.hull import Hull

BLOCK = 128  # crystals relaxed before their energies are kept


def read_samples(path: Path) -> tuple[Dataset, list[dict]]:
    """The crystals of a file or folder, and rows of file, entry and reason for what could not be read."""
    from crysjax.data.readers import io

    text = str(path)
    place, colon, split = text.rpartition(":")
    if colon and not path.exists():
        return read_part(f"{place}:{split}"), []
    found = io.read(path, skip_bad=True)
    return found, list(found.provenance.get("skipped", [])) if io.detect(path) != "crysjax" else []


def questions(
    train: Dataset | None, reference: Dataset | None, known: Mapping[str, Dataset], hulls: list[str], potential: str,
    dft: str, level: str, margin: float, target: Path | None, synthesizability: str, processes: int, folder: Path,
) -> Questions:  # fmt: skip
    """Everything that a set is judged by; an error for questions that lack what they need."""
    from crysjax.evaluation.all_stages import Questions

    if bool(hulls) != bool(potential or dft):
        need = "--potential or --dft" if hulls else "--hull"
        raise ValueError(f"evaluate: energies above the hull need --hull and --potential or --dft; {need} is missing")
    new = ({} if train is None else {"train": train}) | dict(known)
    model = potential and contents(registry.model_path(potential))
    settings = {"margin": str(margin), "level": level, "potential": model, "dft": dft and contents(dft)}
    settings["hull"] = " ".join(map(contents, hulls))
    if target is not None:
        settings["target"] = contents(target) + contents(registry.model_path(read_plan(target).heads))
    return Questions(
        folder, new, reference,
        stability(read_hull(hulls), potential, dft, level, margin, folder) if hulls else None,
        None if target is None else on_target(target), None if target is None else predictions(target),
        scored(synthesizability) if synthesizability else None, settings, processes,
    )  # fmt: skip


def contents(text: str | Path) -> str:
    """A digest of what is in a file (`PATH:SPLIT` too), or in every file of a folder: names do not say."""
    from crysjax.data.readers import reading
    from crysjax.evaluation import kept

    path = Path(text) if Path(text).exists() else Path(str(text).rpartition(":")[0])
    parts = sorted(path.iterdir()) if path.is_dir() else [path, references.beside(path)]
    return kept.digest(str(text), *(reading.digest(p) for p in parts if p and p.is_file()))


def stability(known: Hull, potential: str, dft: str, level: str, margin: float, folder: Path) -> Ask:
    """The stage `stable`: energies by DFT where a table gives them, else of structures relaxed by the potential."""
    from crysjax.evaluation import stages

    of = known.level._replace(theory=level) if level else known.level  # the potential's references are of MP-20's level
    energies = read_energies(dft) if dft else relaxed_energies(potential, folder)

    def ask(samples: Dataset, worth: np.ndarray) -> tuple[Any, int]:
        value, std, reason, more, measured, calls = energies(samples, worth)
        said = stages.stable(
            samples,
            value,
            known,
            level=of,
            measured=measured,
            margin_ev_per_atom=margin,
            std_ev_per_atom=std,
            failed=reason,
        )
        return said._replace(columns=said.columns | more), calls

    return ask


def read_energies(path: str) -> Callable:
    """Formation energies by id from a CSV; crystals that it does not hold were not asked about."""
    import numpy as np

    from crysjax.data import labels
    from crysjax.data.readers import tables

    known: dict[str, float] = {}
    for i, row in enumerate(tables.read(path), 1):
        try:
            name, value = row["id"], labels.number(row[FORMATION_ENERGY], FORMATION_ENERGY)
        except (KeyError, ValueError) as error:
            said = f"row {i} (id {row.get('id', '')!r}): {error}" if isinstance(error, ValueError) else f"no {error}"
            raise ValueError(
                f"--dft {path}: expected columns id and {FORMATION_ENERGY} with numbers ({said})"
            ) from None
        if np.isfinite(value) and known.setdefault(name, value) != value:
            raise ValueError(f"--dft {path}: id {name!r} has two energies, {known[name]:g} and {value:g} (row {i})")

    def energies(samples: Dataset, worth: np.ndarray) -> tuple:
        value = np.array([known.get(name, np.nan) for name in samples.ids.tolist()])
        known_here = int(np.isfinite(value).sum())
        return value, None, np.full(len(samples), ""), {}, f"DFT energies of {Path(path).name}", known_here

    return energies


def relaxed_energies(potential: str, folder: Path) -> Callable:
    """Formation energies of structures relaxed by a potential, block by block, each kept when it is done."""
    import numpy as np

    from crysjax.campaign.validate import element_energy
    from crysjax.data import datasets
    from crysjax.models.references import read_reference

    engine, params, path = registry.load_potential(potential)
    reference = read_reference(path)
    if reference is None:
        raise ValueError(
            f"--potential {potential}: no element references, so no formation energies; make them by "
            f"`crysjax models references --potential {potential}`"
        )

    def energies(samples: Dataset, worth: np.ndarray) -> tuple:
        index = np.flatnonzero(worth)
        columns = {k: np.full(len(samples), np.nan) for k in ("relaxed_ev_per_atom", "rmsd_to_relaxed_angstrom")}
        reason, calls = np.full(len(samples), "geometry is not valid", "<U200"), 0
        with bar("relax") as advance:
            for start in range(0, len(index), BLOCK):
                part = index[start : start + BLOCK]
                block = datasets.take(samples, part)
                found = _block(engine, params, block, folder / "relaxed", potential)
                columns["relaxed_ev_per_atom"][part], columns["rmsd_to_relaxed_angstrom"][part] = found[:2]
                reason[part], calls = found[2], calls + int(found[3].sum())
                advance(start + len(part), len(index))
        formation = columns["relaxed_ev_per_atom"] - element_energy(samples, reference)
        lost = np.isnan(formation) & (reason == "")
        reason[lost] = "an element that the potential has no reference for"
        measured = f"relaxed by {potential} (formation energies within {reference.std_ev_per_atom:.2f} eV/atom of DFT)"
        return formation, reference.std_ev_per_atom, reason, columns, measured, calls

    return energies


def _block(engine: Any, params: Any, block: Dataset, folder: Path, potential: str) -> tuple:
    """Energy an atom, RMSD to the relaxed structure, reason and evaluations of each crystal; kept as `KEY.npz`."""
    import numpy as np

    from crysjax.data import datasets, files
    from crysjax.evaluation import kept
    from crysjax.evaluation.metrics import distributions
    from crysjax.potentials.relax_dataset import relax_dataset

    path = folder / f"{kept.digest(block, contents(registry.model_path(potential)))}.npz"
    names = ("energy", "rmsd", "reason", "steps")
    # a damaged one is simply made again
    with suppress(FileNotFoundError, files.Damaged), files.npz(path, "relaxed crystals") as file:
        return tuple(file[name] for name in names)
    done = relax_dataset(
        engine.energy_forces_stress, params, block, cutoff_angstrom=engine.cutoff_angstrom, known=engine.numbers
    )
    relaxed = replace(done.crystals, frac=datasets.wrap(done.crystals.frac))
    rmsd = np.where(done.valid, distributions.relaxation_rmsd(block, relaxed)["rmsd_angstrom"], np.nan)
    answer = (np.where(done.valid, done.energy / block.num_atoms, np.nan), rmsd, done.reason.astype(str), done.steps)
    files.write_npz(path, dict(zip(names, answer)) | {"frac": relaxed.frac, "lattice": relaxed.lattice})
    return answer


def on_target(path: Path) -> Ask:
    """The stage `target`: the windows of a plan of `design`, by the heads that it names."""
    import math

    from crysjax.evaluation import stages

    plan = read_plan(path)
    windows = {name: (goal.low, goal.high) for name, goal in plan.target.items()}
    windows = {name: pair for name, pair in windows.items() if any(map(math.isfinite, pair))}
    if not windows:
        raise ValueError(f"--target {path}: no target has a window, so nothing can be inside or outside of it")
    names, ask_heads = heads(plan.heads)

    def ask(samples: Dataset, worth: np.ndarray) -> tuple[Any, int]:
        about = {"windows": windows, "measured": f"heads {plan.heads}"}
        said = stages.among(samples, worth, lambda sane: stages.on_target(names, ask_heads(sane), **about))
        return said, int(worth.sum())

    return ask


def heads(name: str) -> tuple[list[str], Callable]:
    """Names of the properties that heads predict, and data set -> `Estimate` of (m, k)."""
    from crysjax.data import batching
    from crysjax.predictors.predictor import estimate

    model = registry.load_model(name, "heads")
    predict = model.build.predict
    return model.config["properties"], lambda s: estimate(predict, model.params, s, batching.capacity(s.num_atoms))


def predictions(path: Path) -> Callable:
    """Data set -> {property: (value, std)} of the heads that a plan names."""

    names, ask = heads(read_plan(path).heads)

    def predict(samples: Dataset) -> dict:
        found = ask(samples)
        return {name: (found.value[:, k], found.std[:, k]) for k, name in enumerate(names)}

    return predict


def scored(name: str) -> Callable:
    """A model of synthesizability as a function of a data set."""
    from crysjax.data import batching
    from crysjax.predictors.predictor import estimate

    model = registry.load_model(name, "synthesizability")
    return lambda samples: estimate(model.build.predict, model.params, samples, batching.capacity(samples.num_atoms))

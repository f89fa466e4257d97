"""`crysjax sample`, `predict`, `relax` and `models`: trained models on crystals, and where models come from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crysjax.cli import pull
from crysjax.data.readers.part import read_part
from crysjax.models import published, registry
from crysjax.sampling import defaults, space_groups
from crysjax.sampling import options as constraints
from crysjax.terminal import bar, printable, say
from crysjax.training import cells

if TYPE_CHECKING:
    import numpy as np

    from crysjax.data.datasets import Dataset

app = typer.Typer(help="List the models that are here, and get more.", no_args_is_help=True)
app.command("pull")(pull.pull)


def sample(
    model: str = typer.Argument(help="A generator: name of a shipped model, or a path."),
    out: Path = typer.Option(..., help="Where samples go: .npz, .extxyz, .cif, or a folder of CIFs."),
    count: int = typer.Option(100, "--count", "-n", min=1, help="How many, without --like."),
    like: str = typer.Option("", help="PATH[:SPLIT]: one sample with the composition of each of these crystals."),
    templates_from: str = typer.Option("", "--templates", help="PATH[:SPLIT] to look up from: retrieval-based flows."),
    elements: str = typer.Option("", help="Only these elements, such as Li,Fe,P,O."),
    formula: str = typer.Option("", help="This composition, such as LiFePO4, in cells of whole units."),
    forbid: str = typer.Option("", help="None of these elements, such as Pb,Cd,Hg."),
    num_elements: str = typer.Option("", help="NUMBER or LOW:HIGH of different elements."),
    neutral: bool = typer.Option(False, "--neutral", help="Charges add up to zero with common oxidation states."),
    min_distance: float = typer.Option(0.0, min=0, help="Least distance of all atoms, periodic images included, Å."),
    space_group: int = typer.Option(0, min=0, max=230, help="Whose operations every sample has."),
    fix: str = typer.Option("", help="A file of one crystal whose atoms are in every sample, where they are."),
    fix_cell: bool = typer.Option(False, "--fix-cell", help="The cell of --fix as well."),
    max_atoms: int | None = typer.Option(None, min=1, help="Largest cell, in atoms."),
    want: list[str] = typer.Option([], "--property", help="NAME=VALUE, or NAME=LOW:HIGH: one value per crystal."),
    steps: int | None = typer.Option(None, min=1, help="Steps of the sampler."),
    guidance: str = typer.Option("", help="Weight of guidance; or NAME=WEIGHT,..., one a --property."),
    temperature: float | None = typer.Option(None, help="A factor: choices are sharper below 1."),
    seed: int = typer.Option(0, help="Of all draws."),
    novelty: str = typer.Option("", help="Heads, such as mp_20_heads: how far each sample is from their data."),
) -> None:
    """Draw crystals from a generator: free ones, or with given compositions (structure prediction)."""
    import jax
    import numpy as np

    from crysjax.data import datasets
    from crysjax.data.readers import io
    from crysjax.sampling import draws as sampling
    from crysjax.sampling import prediction

    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature {temperature}: expected a number above 0")
    path = registry.model_path(model)
    config = registry.read_config(path, "generator")
    names, known = [*config["properties"], "space_group"], config["elements"]
    changed = {"generator.steps": steps, "generator.guidance": _weights(guidance, names, want) if guidance else None}
    options = constraints.Options(
        formula, elements, forbid, num_elements, neutral, fix, fix_cell, min_distance, space_group
    )
    limits = constraints.wanted(options, known)
    looks_up = config["settings"].get("family") == "retrieval"
    if looks_up != bool(templates_from) or (looks_up and not like):
        raise ValueError(f"{model}: a retrieval-based flow needs --like and --templates; others take no --templates")
    if like:
        constraints.beside_like(options)
        given = read_part(like)
        warn_of_strangers("--like", given, known, "samples")
        templates = replace(sampling.blank(given.num_atoms, given.numbers), ids=given.ids)
    else:
        sizes = constraints.sizes(limits, {int(n): c for n, c in config["sizes"].items()}, known)
        templates = sampling.blank(sampling.draw_sizes(seed, sizes, count, max_atoms))
    changed = {k: v for k, v in changed.items() if v is not None}
    changed |= defaults.settings(path, config, model, temperature, bool(like))
    ready = constraints.ready(model, changed, limits, templates, seed=seed)
    asked = _asked(want, names, len(templates), seed)
    if space_group and space_groups.told_group(config):
        asked[:, -1] = space_group
    view = None
    if looks_up:
        (known_structures,), _ = cells.standard("--templates", read_part(templates_from))
        view = prediction.retrieved(known_structures, templates, config)[0]
    key = jax.random.key(seed)

    def draw(rows: np.ndarray, again: int, ready: constraints.Ready = ready, start: Any = None) -> Dataset:
        blank, own = ready.start(rows if start is None else start, again)
        with bar("sample") as advance:
            return sampling.sample(
                ready.generator, ready.params, jax.random.fold_in(key, again) if again else key, blank,
                asked[rows, :-1], elements=ready.elements, view=view or own, on_pack=advance,
                space_group=np.nan_to_num(asked[rows, -1]).astype(np.int32),
            )  # fmt: skip

    def resize(rows: np.ndarray, again: int) -> Dataset:
        other = sampling.blank(sampling.draw_sizes(seed + 1000 * again, sizes, len(rows), max_atoms))
        made = constraints.ready(model, changed, limits, other, seed=seed + 1000 * again)
        return draw(rows, again, made, np.arange(len(rows)))

    everyone = np.arange(len(templates))
    drawn = space_groups.in_exact_group(draw, resize, everyone, space_group) if space_group else draw(everyone, 0)
    drawn = constraints.kept(limits, drawn)
    if not like:
        defaults.warn_of_crowds(drawn)
    if novelty:
        from crysjax.models.answers import with_novelty

        drawn = with_novelty(drawn, novelty)
    datasets.save(drawn, out) if out.suffix == ".npz" else io.write_crystals(drawn, out)
    say(f"{out}: {len(drawn)} crystals")


def warn_of_strangers(what: str, given: Dataset, known: list[int], answers: str, counted: bool = False) -> None:
    """A line on standard error if crystals have elements that a model was not trained on; `counted`: how many do."""
    import numpy as np

    from crysjax.chemistry import elements as periodic
    from crysjax.data import datasets

    strange = ~np.isin(given.numbers, known)
    if strange.any():
        symbols = ", ".join(periodic.SYMBOLS[z - 1] for z in np.unique(given.numbers[strange]))
        count = int(np.logical_or.reduceat(strange, datasets.offsets(given)[:-1]).sum())
        share = f" ({count} of {len(given)} crystals)" if counted else ""
        say(f"crysjax: {what}: the model was not trained on {symbols}{share}; such {answers} mean little", err=True)


def _sizes(loaded: registry.Model) -> dict[int, int]:
    return {int(n): c for n, c in loaded.config["sizes"].items()}


def _asked(texts: list[str], names: list[str], count: int, seed: int) -> Any:
    """What each crystal is asked for, (count, names); a range is one value per crystal, uniform within it."""
    import numpy as np

    asked = np.full((count, len(names)), np.nan, np.float32)
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise ValueError(f"--property {text}: expected {registry.choice(name, names)}")
        k, expected = names.index(name), f"--property {text}: expected NAME=NUMBER or NAME=LOW:HIGH"
        low, high = (_number(v, expected) for v in (value.split(":", 1) if ":" in value else (value, value)))
        if low > high:
            raise ValueError(expected)
        if name == "space_group" and not (low == high and low in range(1, 231)):
            raise ValueError(f"--property {text}: expected a space group from 1 to 230")
        # a stream a property, and apart from the draws of sizes, which have the seed alone
        asked[:, k] = np.random.default_rng((seed, k)).uniform(low, high, count) if low < high else low
    return asked


def _weights(text: str, names: list[str], want: list[str]) -> float | list[float]:
    """`--guidance`: a weight of all conditions together, or one for each."""
    expected = f"--guidance {text}: expected WEIGHT, or NAME=WEIGHT,... with a --property for each name; from 0 on"
    if "=" not in text:
        return _number(text, expected, least=0)
    weights = dict.fromkeys(names, 0.0)
    asked = {one.partition("=")[0] for one in want}
    for name, _, weight in (part.strip().partition("=") for part in text.split(",")):
        if name not in asked:
            raise ValueError(expected)
        weights[name] = _number(weight, expected, least=0)
    return list(weights.values())


def _number(text: str, expected: str, least: float = -math.inf) -> float:
    """A finite number of at least `least`, else an error that says what was expected."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise ValueError(expected)
    return value


def relax(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="Relaxed crystals: .npz, .extxyz, .cif, or a folder of CIFs."),
    potential: str = typer.Option("student", help="A potential: name of a model that is here, or a path."),
    steps: int = typer.Option(200, min=1, help="Most steps per crystal."),
    fmax: float = typer.Option(0.05, min=0, help="Largest force that counts as relaxed, eV/Å."),
    pressure_gpa: float = typer.Option(0.0, help="Outer pressure, GPa."),
    cell: bool = typer.Option(True, help="Whether the cell moves."),
    method: str = typer.Option("lbfgs", help="lbfgs, or fire: slower, calmer."),
    keep_symmetry: float = typer.Option(0.0, min=0, help="Keep the operations found within this distance, Å."),
    trajectory: Path = typer.Option(None, help="Folder for NAME.extxyz of all steps of each crystal."),
) -> None:
    """Relax positions and cells by a machine-learned potential, many crystals at once."""
    import numpy as np

    from crysjax.data import datasets, names
    from crysjax.data.readers import io
    from crysjax.potentials.relax import Relax
    from crysjax.potentials.relax_dataset import relax_dataset

    engine, params, _ = registry.load_potential(potential)
    dataset = read_part(crystals)
    settings = Relax(method=method, fmax_ev_angstrom=fmax, pressure_gpa=pressure_gpa, move_cell=cell)
    frames: dict[int, list] = {}

    def record(rows: np.ndarray, energy: np.ndarray, now: datasets.Dataset) -> None:
        for row, value, entry in zip(rows.tolist(), energy.tolist(), datasets.entries(now)):
            frames.setdefault(row, []).append(entry._replace(properties={"potential_ev": value}))

    with bar("relax") as advance:
        found = relax_dataset(
            engine.energy_forces_stress, params, dataset, cutoff_angstrom=engine.cutoff_angstrom,
            known=engine.numbers, settings=settings,
            max_steps=steps, keep_symmetry_angstrom=keep_symmetry or None, progress=advance,
            **({} if trajectory is None else {"record": record, "chunk": 1}),
        )  # fmt: skip
    answers = {"potential_ev_per_atom": found.energy / dataset.num_atoms, "fmax_ev_per_angstrom": found.fmax}
    answers |= {"converged": found.converged.astype(np.float32), "valid": found.valid.astype(np.float32)}
    relaxed = replace(
        found.crystals, frac=datasets.wrap(found.crystals.frac), properties=found.crystals.properties | answers
    )
    datasets.save(relaxed, out) if out.suffix == ".npz" else io.write_crystals(relaxed, out)
    say(f"{out}: {len(dataset)} crystals, {found.converged.sum()} converged, {(~found.valid).sum()} failed")
    kept = {**found.crystals.properties, **found.crystals.site_properties}
    if old := sorted({**dataset.properties, **dataset.site_properties}.keys() - kept.keys()):
        say(f"not kept, for they belong to the unrelaxed crystals: {', '.join(old)}", err=True)
    named = names.of_all(dataset.ids)
    for row, steps_of_row in frames.items():  # after the crystals, which are what was asked for
        io.write_crystals(datasets.from_entries(steps_of_row), trajectory / f"{named[row]}.extxyz")
    for name, reason in zip(dataset.ids[~found.valid], found.reason[~found.valid]):
        say(f"{printable(name)}: {reason}", err=True)


@app.command("list")
def show() -> None:
    """Names of the models that are here, and of those that `pull` gets."""
    for name in registry.installed():
        say(f"{name:24s}{registry.model_path(name)}")
    for name in sorted(set(published.PUBLISHED) - set(registry.installed())):
        say(f"{name:24s}not here: crysjax models pull {name}")


@app.command()
def card(name: str = typer.Argument(help="A model that is here.")) -> None:
    """Print what is known of the making of a model."""
    from crysjax.models import checkpoint

    path = registry.model_path(name)
    found = published.card(path) if path.suffix == ".nqx" else checkpoint.read_config(path).get("card", {})
    say(json.dumps(found, indent=1))

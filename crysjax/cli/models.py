"""`crysjax sample`, `predict`, `relax` and `models`: trained models on crystals, and where models come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crysjax.cli import pull, registry
from crysjax.cli.data import read_part
from crysjax.cli.show import bar

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset

app = typer.Typer(help="List the models that are here, and get more.", no_args_is_help=True)
app.command("pull")(pull.pull)


def sample(
    model: str = typer.Argument(help="A generator: name of a shipped model, or a path."),
    out: Path = typer.Option(..., help="Where samples go: .npz, .extxyz, .cif, or a folder of CIFs."),
    count: int = typer.Option(100, "--count", "-n", min=1, help="How many, without --like."),
    like: str = typer.Option("", help="PATH[:SPLIT]: one sample with the composition of each of these crystals."),
    elements: str = typer.Option("", help="Only these elements, such as Li,Fe,P,O."),
    max_atoms: int | None = typer.Option(None, min=1, help="Largest cell."),
    want: list[str] = typer.Option([], "--property", help="NAME=VALUE to ask for, such as band_gap_ev=1.5."),
    steps: int | None = typer.Option(None, min=1, help="Steps of the sampler."),
    guidance: float | None = typer.Option(None, min=0, help="Weight of classifier-free guidance."),
    seed: int = typer.Option(0, help="Of all draws."),
) -> None:
    """Draw crystals from a generator: free ones, or with given compositions (structure prediction)."""
    import jax
    import numpy as np

    from crysjax.campaign import sampling
    from crysjax.data import datasets, io

    changed = {"generator.steps": steps, "generator.guidance": guidance}
    loaded = registry.load_model(model, "generator", {k: v for k, v in changed.items() if v is not None})
    allowed = _allowed(elements, loaded.config["elements"])
    if like:
        given = read_part(like)
        _warn_of_strangers(given, loaded.config["elements"])
        templates = replace(sampling.blank(given.num_atoms, given.numbers), ids=given.ids)
    else:
        templates = sampling.blank(sampling.draw_sizes(seed, _sizes(loaded), count, max_atoms))
    asked = np.tile(_asked(want, loaded.config["properties"]), (len(templates), 1))
    with bar("sample") as advance:
        drawn = sampling.sample(
            loaded.build, loaded.params, jax.random.key(seed), templates, asked, elements=allowed, on_pack=advance
        )
    datasets.save(drawn, out) if out.suffix == ".npz" else io.write_crystals(drawn, out)
    typer.echo(f"{out}: {len(drawn)} crystals")


def _allowed(text: str, known: list[int]) -> tuple[int, ...] | None:
    """Atomic numbers in `--elements`, all of which the model has to know."""
    from crysjax.data import elements as periodic

    if not text:
        return None
    found = []
    for symbol in (part.strip() for part in text.split(",")):
        number = periodic.NUMBERS.get(symbol)
        if number is None:
            raise ValueError(f"--elements {text}: {symbol!r} is not a chemical element from H to Fm")
        if number not in known:
            raise ValueError(f"--elements {text}: the model was not trained on {symbol}")
        found.append(number)
    return tuple(sorted(set(found)))


def _warn_of_strangers(given: Dataset, known: list[int]) -> None:
    from crysjax.data import elements as periodic

    strange = sorted(set(given.numbers.tolist()) - set(known))
    if strange:
        symbols = ", ".join(periodic.SYMBOLS[z - 1] for z in strange)
        typer.echo(f"crysjax: --like: the model was not trained on {symbols}; such samples mean little", err=True)


def _sizes(loaded: registry.Model) -> dict[int, int]:
    return {int(n): c for n, c in loaded.config["sizes"].items()}


def _asked(texts: list[str], names: list[str]) -> Any:
    import numpy as np

    asked = np.full(len(names), np.nan, np.float32)
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise ValueError(f"--property {text}: expected {registry.choice(name, names)}")
        try:
            asked[names.index(name)] = float(value)
        except ValueError:
            raise ValueError(f"--property {text}: expected NAME=NUMBER") from None
    return asked


def predict(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    model: str = typer.Option("mp_20_heads", help="Heads or synthesizability: name of a shipped model, or a path."),
    out: Path | None = typer.Option(None, help="CSV to write; left out, rows are printed."),
) -> None:
    """Predict properties with uncertainty."""
    import numpy as np

    from crysjax.campaign.validate import estimate
    from crysjax.data import batching, files

    loaded, dataset = registry.load_scorer(model), read_part(crystals)
    found = estimate(loaded.build.predict, loaded.params, dataset, batching.capacity(dataset.num_atoms))
    head = ["id", *(f"{name}{end}" for name in loaded.config["properties"] for end in ("", "_std"))]
    numbers = np.stack([found.value, found.std], -1).reshape(len(dataset), -1)
    meaning = loaded.config.get("meaning")
    note = [f'"{meaning}"'] if meaning and out else []  # a file keeps it beside every score
    lines = [",".join(head + ["meaning"] * len(note))]
    lines += [",".join([str(i), *(f"{v:.5g}" for v in row), *note]) for i, row in zip(dataset.ids, numbers)]
    if meaning:
        typer.echo(f"crysjax: {loaded.config['properties'][0]}: {meaning}", err=True)
    if out is None:
        typer.echo("\n".join(lines))
    else:
        files.write(out, "\n".join(lines) + "\n")
        typer.echo(f"{out}: {len(dataset)} crystals")


def relax(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="Relaxed crystals: .npz, .extxyz, .cif, or a folder of CIFs."),
    potential: str = typer.Option("student", help="A potential: name of a model that is here, or a path."),
    steps: int = typer.Option(200, min=1, help="Most steps a crystal."),
    fmax: float = typer.Option(0.05, min=0, help="Largest force that counts as relaxed, eV/Å."),
    pressure_gpa: float = typer.Option(0.0, help="Outer pressure."),
    cell: bool = typer.Option(True, help="Whether the cell moves."),
) -> None:
    """Relax positions and cells by a machine-learned potential, many crystals at once."""
    import numpy as np

    from crysjax.data import datasets, io
    from crysjax.potentials.relax import Fire
    from crysjax.potentials.relax_dataset import relax_dataset

    engine, params, _ = registry.load_potential(potential)
    dataset = read_part(crystals)
    settings = Fire(fmax_ev_angstrom=fmax, pressure_gpa=pressure_gpa, move_cell=cell)
    with bar("relax") as advance:
        found = relax_dataset(
            engine.energy_forces_stress, params, dataset, cutoff_angstrom=engine.cutoff_angstrom, settings=settings,
            max_steps=steps, progress=advance,
        )  # fmt: skip
    answers = {"potential_ev_per_atom": found.energy / dataset.num_atoms, "fmax_ev_per_angstrom": found.fmax}
    answers |= {"converged": found.converged.astype(np.float32), "valid": found.valid.astype(np.float32)}
    relaxed = replace(found.crystals, frac=datasets.wrap(found.crystals.frac), properties=dataset.properties | answers)
    datasets.save(relaxed, out) if out.suffix == ".npz" else io.write_crystals(relaxed, out)
    typer.echo(f"{out}: {len(dataset)} crystals, {found.converged.sum()} converged, {(~found.valid).sum()} failed")
    for name, reason in zip(dataset.ids[~found.valid], found.reason[~found.valid]):
        typer.echo(f"{name}: {reason}", err=True)


@app.command("list")
def show() -> None:
    """Names of the models that are here, and of those that `pull` gets."""
    for name in registry.installed():
        typer.echo(f"{name:24s}{registry.model_path(name)}")
    for name in sorted(set(pull.PUBLISHED) - set(registry.installed())):
        typer.echo(f"{name:24s}not here: crysjax models pull {name}")


@app.command()
def card(name: str = typer.Argument(help="A model that is here.")) -> None:
    """Print what is known of the making of a model."""
    from crysjax.training import checkpoint

    path = registry.model_path(name)
    found = pull.card(path) if path.suffix == ".nqx" else checkpoint.read_config(path).get("card", {})
    typer.echo(json.dumps(found, indent=1))

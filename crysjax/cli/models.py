"""`crysjax sample`, `predict`, `relax` and `models`: trained models on crystals, and where models come from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import typer

from crysjax.cli import pull
from crysjax.cli.references import references
from crysjax.data.readers.part import read_part
from crysjax.models import published, registry
from crysjax.terminal import bar, printable, say

app = typer.Typer(help="List the installed models, and get more.", no_args_is_help=True)
app.command("pull")(pull.pull)
app.command("references")(references)


def sample(
    model: str = typer.Argument(help="A generator: name of a shipped model, or a path."),
    out: Path = typer.Option(..., help="Where samples go: .npz, .extxyz, .cif, or (no dot) a folder of CIFs."),
    count: int = typer.Option(100, "--count", "-n", min=1, help="Number of crystals, without --like."),
    like: str = typer.Option("", help="PATH[:SPLIT]: one sample with the composition of each of these crystals."),
    templates_from: str = typer.Option(
        "",
        "--templates",
        help="PATH[:SPLIT] of known structures, or aflow-prototypes: a retrieval-based model predicts the structures "
        "of --like from them, or exchanges their elements for new crystals.",
    ),
    elements: str = typer.Option("", help="Only these elements, such as Li,Fe,P,O, or lists (earth-abundant)."),
    formula: str = typer.Option("", help="This composition, such as LiFePO4, in cells of whole formula units."),
    forbid: str = typer.Option("", help="None of these elements, such as Pb,Cd,Hg."),
    require: str = typer.Option("", help="All of these elements, such as Li,O."),
    num_elements: str = typer.Option("", help="Number of different elements: NUMBER or LOW:HIGH."),
    neutral: bool = typer.Option(
        False, "--neutral", help="Only compositions whose common oxidation states add up to zero."
    ),
    min_distance: float = typer.Option(
        0.0, min=0, help="Smallest distance between atoms, periodic images included, Å."
    ),
    space_group: int = typer.Option(
        0, min=0, max=230, help="Number of a space group whose operations every sample has; 0 = any."
    ),
    crystal_system: str = typer.Option("", help="Such as cubic: every sample has a space group of it."),
    density_g_cm3: str = typer.Option("", "--density-g-cm3", help="LOW:HIGH, LOW: or :HIGH, g/cm³; by drawing again."),
    fix: str = typer.Option("", help="File of one crystal whose atoms every sample has, at the same positions."),
    fix_cell: bool = typer.Option(False, "--fix-cell", help="Keep the cell of --fix as well."),
    min_atoms: int = typer.Option(1, min=1, help="Smallest cell, in atoms."),
    max_atoms: int | None = typer.Option(None, min=1, help="Largest cell, in atoms."),
    want: list[str] = typer.Option(
        [], "--property", help="Ask for NAME=VALUE, or for NAME=LOW:HIGH, which draws one value per crystal."
    ),
    steps: int | None = typer.Option(None, min=1, help="Steps of the sampler."),
    guidance: str = typer.Option(
        "", help="Weight of classifier-free guidance; or NAME=WEIGHT,..., one per --property."
    ),
    temperature: float | None = typer.Option(None, help="A factor: below 1, likely choices become likelier."),
    best_of: int = typer.Option(
        1, min=1, help="Samples of each composition of --like; kept is that of lowest predicted formation energy."
    ),
    by: str = typer.Option("mp_20_heads", help="The heads that predict it for --best-of."),
    seed: int = typer.Option(0, help="Random seed."),
    novelty: str = typer.Option(
        "", help="Heads, such as mp_20_heads: how far each sample is from their training data."
    ),
) -> None:
    """Draw crystals from a generator: free ones, or with given compositions (structure prediction)."""
    from crysjax.data.readers import io
    from crysjax.sampling.options import Options, beside_like
    from crysjax.sampling.sample import Request
    from crysjax.sampling.sample import sample as drawn_from

    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature {temperature}: expected a number above 0")
    io.refuse_other_suffixes(out)  # before anything is drawn
    config = registry.read_config(registry.model_path(model, "generator"), "generator")
    names = [*config["properties"], "space_group"]
    constraints = Options(formula, elements, forbid, num_elements, neutral, fix, fix_cell, min_distance, space_group,
                          require, crystal_system, density_g_cm3)  # fmt: skip
    if like:
        beside_like(constraints)  # before a long file is read
    request = Request(
        count=count, like=read_part(like) if like else None,
        templates=read_part(templates_from) if templates_from else None, max_atoms=max_atoms,
        constraints=constraints,
        properties=_asked(want, names), guidance=_weights(guidance, names, want) if guidance else None,
        steps=steps, temperature=temperature, min_atoms=min_atoms, best_of=best_of, by=by,
    )  # fmt: skip
    with bar("sample") as advance:
        drawn = drawn_from(model, request, seed=seed, progress=advance)
    if novelty:
        from crysjax.models.answers import with_novelty

        drawn = with_novelty(drawn, novelty)
    io.write(drawn, out)
    say(f"{out}: {'' if out.suffix else 'a folder of CIFs, '}{len(drawn)} crystals")
    if drawn.properties and out.suffix not in (".npz", ".extxyz", ".xyz"):
        say(
            f"not kept, a CIF has no place for it: {', '.join(sorted(drawn.properties))}; .npz and .extxyz have",
            err=True,
        )


def _asked(texts: list[str], names: list[str]) -> dict[str, float | tuple[float, float]]:
    """`--property NAME=VALUE` or `NAME=LOW:HIGH`, the last one of a name."""
    asked: dict[str, float | tuple[float, float]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise ValueError(f"--property {text}: expected {registry.choice(name, names)}")
        expected = f"--property {text}: expected NAME=NUMBER or NAME=LOW:HIGH"
        low, high = (_number(v, expected) for v in (value.split(":", 1) if ":" in value else (value, value)))
        if low > high:
            raise ValueError(f"--property {text}: low is above high; expected NAME=LOW:HIGH")
        asked[name] = (low, high) if low < high else low
    return asked


def _weights(text: str, names: list[str], want: list[str]) -> float | dict[str, float]:
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
    return weights


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
    out: Path = typer.Option(..., help="Relaxed crystals: .npz, .extxyz, .cif, or (no dot) a folder of CIFs."),
    potential: list[str] = typer.Option(["student"], help="Name or path; repeat it to relax on the mean of several."),
    steps: int = typer.Option(200, min=1, help="Maximum number of steps per crystal."),
    fmax: float = typer.Option(0.05, min=0, help="Largest force that counts as relaxed, eV/Å."),
    pressure_gpa: float = typer.Option(0.0, help="External pressure, GPa."),
    cell: bool = typer.Option(True, help="Relax the cell too, or keep it fixed."),
    method: str = typer.Option("lbfgs", help="lbfgs, or fire, which is slower and takes more cautious steps."),
    keep_symmetry: float = typer.Option(
        0.0, min=0, help="Keep the symmetry operations found within this tolerance, Å; 0 = none."
    ),
    trajectory: Path = typer.Option(None, help="Folder for NAME.extxyz of all steps of each crystal."),
) -> None:
    """Relax positions and cells by a machine-learned potential, many crystals at once.

    Several --potential options, of potentials that differ only in the seed of their training, relax on their mean;
    `potential_std_ev_per_atom` is the standard deviation of their energies at the end.
    """
    from crysjax.front import physics

    dataset = read_part(crystals)
    with bar("relax") as advance:
        found = physics.relax(
            dataset, potential, steps=steps, fmax=fmax, pressure_gpa=pressure_gpa, cell=cell, method=method,
            keep_symmetry=keep_symmetry or None, out=out, trajectory=trajectory, progress=advance,
        )  # fmt: skip
    say(f"{out}: {len(dataset)} crystals, {found.converged.sum()} converged, {(~found.valid).sum()} failed")
    kept = {**found.crystals.properties, **found.crystals.site_properties}
    if old := sorted({**dataset.properties, **dataset.site_properties}.keys() - kept.keys()):
        say(f"not kept, for they belong to the unrelaxed crystals: {', '.join(old)}", err=True)
    for name, reason in zip(dataset.ids[~found.valid], found.reason[~found.valid]):
        say(f"{printable(name)}: {reason}", err=True)


@app.command("list")
def show(
    json_file: Path | None = typer.Option(None, "--json", help="Write the list as JSON, with the models' paths."),
) -> None:
    """One line per model: name, kind, what it is for, and how good it is; `models card` tells more."""
    from crysjax.data import files
    from crysjax.models import listing

    found = listing.listed()
    for one in found:
        say(listing.line(one))
    if json_file is not None:
        files.write(json_file, json.dumps([one._asdict() for one in found], indent=1))


@app.command()
def card(name: str = typer.Argument(help="Name of an installed model, or a path.")) -> None:
    """Print how a model was made."""
    from crysjax.models import checkpoint

    path = registry.model_path(name)
    found = published.card(path) if path.suffix == ".nqx" else checkpoint.read_config(path).get("card", {})
    say(json.dumps(found, indent=1))

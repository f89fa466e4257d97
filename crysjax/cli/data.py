"""`crysjax data`: make a data set file, look at it, and look for leaks between its splits."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from crysjax.data.readers.part import read_part, with_split
from crysjax.models import cells
from crysjax.terminal import bar, printable, say

app = typer.Typer(help="Prepare, describe and audit data sets.", no_args_is_help=True)


@app.command()
def prepare(
    inputs: list[str] = typer.Argument(help="Files or folders to read, each PATH or PATH:SPLIT (data.csv:train)."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out entries that cannot be read; they are counted."),
    note: str = typer.Option("", help="Text for the provenance, such as source and license."),
) -> None:
    """Read CIF, POSCAR, extxyz, ASE databases, tables of structures and npz layouts into one compact file.

    Standard error reports what was read from which column, what was not, and values that look like placeholders.
    """
    from crysjax.data import labels, placeholders
    from crysjax.data.readers import io

    skipped: list[dict] = []
    columns: list[tuple[str, list[dict]]] = []
    dataset = io.prepare(
        [with_split(text) for text in inputs], out, skip_bad=skip_bad, note=note, on_skip=skipped.append,
        on_columns=lambda name, report: columns.append((name, report)),
    )  # fmt: skip
    for row in skipped:
        entry = f"entry {printable(row['entry'])}: " if row["entry"] else ""
        say(f"skipped {row['file']}: {entry}{row['reason']}", err=True)
    for line in [f"{name}: {line}" for name, report in columns for line in labels.lines(report)]:
        say(line, err=True)
    for line in placeholders.said(dataset):
        say(f"warning: {line}", err=True)
    say(f"{out}: {len(dataset)} crystals, {len(skipped)} skipped")


@app.command()
def info(path: Path = typer.Argument(help="A data set file, or anything that `prepare` reads.")) -> None:
    """Print what a data set holds, as JSON."""
    from crysjax.data import datasets
    from crysjax.data.readers import io

    say(json.dumps(datasets.info(io.read(path)), indent=1))


@app.command()
def select(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of a data set, or of anything that `prepare` reads."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    max_atoms: int | None = typer.Option(None, min=1, help="Largest cell, in atoms."),
    without: str = typer.Option("", help="PATH[:SPLIT]: leave out entries whose id is in it."),
) -> None:
    """Keep part of a data set: small cells, or what another set does not have by id."""
    from dataclasses import replace

    import numpy as np

    from crysjax.data import datasets

    dataset = read_part(crystals)
    keep = dataset.num_atoms <= (max_atoms or np.inf)
    if without:
        keep &= ~np.isin(dataset.ids, read_part(without).ids)
    if not keep.any():
        raise ValueError(f"{crystals}: nothing is left of {len(dataset)} crystals")
    about = {"max_atoms": max_atoms, "without": Path(without).name, "of": dataset.provenance}
    datasets.save(replace(datasets.take(dataset, keep), provenance=about), out)
    say(f"{out}: {keep.sum()} of {len(dataset)} crystals")


_OWN = {
    "element": ("elements",), "time": ("column",), "cluster": ("space", "clusters", "distance"),
    "prototype": ("symprec_angstrom",), "space-group": ("symprec_angstrom",),
}  # fmt: skip


@app.command()
def split(
    path: Path = typer.Argument(help="A data set file."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    by: str = typer.Option(
        "composition",
        help="random, composition, chemical-system, element, prototype, space-group, time or cluster.",
    ),
    fractions: str = typer.Option("train=0.8,val=0.1,test=0.1", help="New splits and their shares."),
    only: str = typer.Option("", help="Only divide these splits, such as train,val; the others stay as they are."),
    seed: int = typer.Option(0, help="Random seed."),
    column: str | None = typer.Option(None, help="time: the property that orders the crystals, such as year."),
    elements: str | None = typer.Option(
        None, help="element: the held-out elements, such as O,Al; by default drawn at random."
    ),
    space: str | None = typer.Option(None, help="cluster: descriptor space, structure (default) or composition."),
    clusters: int | None = typer.Option(None, help="cluster: number of k-means clusters, 50 if not given."),
    distance: float | None = typer.Option(
        None, help="cluster: instead, join crystals closer than this (descriptor space)."
    ),
    symprec_angstrom: float | None = typer.Option(None, help="prototype, space-group: spglib's tolerance, Å; 0.1."),
) -> None:
    """Split a data set again, so that no group is in two splits."""
    import numpy as np

    from crysjax.data import datasets
    from crysjax.splits import grouped

    known = [kind for kind in grouped.SPLITS if kind != "given"]
    if by not in known:
        raise ValueError(f"--by {by}: expected one of {', '.join(known)}")
    names = elements.split(",") if elements else None
    own = {"column": column, "elements": names, "space": space, "clusters": clusters, "distance": distance,
           "symprec_angstrom": symprec_angstrom}  # fmt: skip
    own = {name: value for name, value in own.items() if value is not None}
    foreign = sorted(set(own) - set(_OWN.get(by, ())))
    if foreign:
        raise ValueError(f"--{foreign[0].replace('_', '-')}: a split by {by} has no such option")
    if by == "time" and column is None:
        raise ValueError("--by time: expected --column, the property that orders the crystals")
    dataset = datasets.load(path)
    chosen = np.isin(dataset.split, only.split(",")) if only else np.ones(len(dataset), bool)
    if not chosen.any():
        known = sorted(set(dataset.split.tolist()))
        raise ValueError(f"--only {only}: no crystal is in these; the data set has {known}")
    part = datasets.take(dataset, chosen)
    divided = grouped.SPLITS[by](part, seed=seed, fractions=_fractions(fractions), **own)
    whole = datasets.concatenate([divided, datasets.take(dataset, ~chosen)]) if not chosen.all() else divided
    datasets.save(whole, out)
    names, count = np.unique(whole.split, return_counts=True)
    say(f"{out}: " + ", ".join(f"{n} {c}" for n, c in zip(names, count)))


@app.command("space-groups")
def space_groups(
    path: Path = typer.Argument(help="A data set file."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    symprec_angstrom: float = typer.Option(0.1, help="spglib's tolerance, Å."),
) -> None:
    """Add the property `space_group` (1..230), which a generator can be conditioned on."""
    from dataclasses import replace

    from crysjax.data import datasets
    from crysjax.splits import grouped

    dataset = datasets.load(path)
    found = grouped.space_groups(dataset, symprec_angstrom=symprec_angstrom)
    provenance = dataset.provenance | {"space_group": f"spglib, symprec {symprec_angstrom} Å"}
    dataset = replace(dataset, properties=dataset.properties | {"space_group": found}, provenance=provenance)
    say(f"{datasets.save(dataset, out)}: {len(set(found.tolist()))} different groups, {(found == 1).mean():.1%} P1")


@app.command()
def pairs(
    path: Path = typer.Argument(help="A data set file with splits."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    tries: int = typer.Option(5, min=1, help="Nearest templates per crystal."),
    train_split: str = typer.Option("train", help="The split that templates are taken from."),
    others: str = typer.Option("val", help="Further splits to pair, such as val,test."),
) -> None:
    """Pair every crystal with its nearest templates (leave-one-out): what the retrieval-based flow learns from."""
    from dataclasses import replace

    import numpy as np

    from crysjax.data import datasets
    from crysjax.retrieval.pairs import pairs as made

    dataset = datasets.load(path)
    (dataset,), line = cells.standard("pairs", dataset)
    train = datasets.where_split(dataset, train_split)
    parts = []
    for name in (train_split, *filter(None, others.split(","))):
        part = datasets.where_split(dataset, name)
        found = made(train, part, tries=tries, own=np.arange(len(part)) if name == train_split else None)
        parts.append(replace(found, split=np.full(len(found), name)))
        say(f"{name}: {len(found)} pairs, {found.properties['matched'].mean():.1%} of one structure")
    whole = datasets.concatenate(parts)
    about = whole.provenance | {"cells": line or f"all were {cells.KIND}"}  # training asks for it
    datasets.save(replace(whole, provenance=about), out)
    say(f"{out}: done")


@app.command()
def label(
    path: str = typer.Argument(help="PATH[:SPLIT] of crystals."),
    out: Path = typer.Option(..., help="The data set file to write (.npz)."),
    potential: str = typer.Option(..., help="A potential: name of an installed model, or a path."),
    max_force: float = typer.Option(float("inf"), help="Leave out crystals with a larger force on an atom, eV/Å."),
) -> None:
    """Add energies, forces and stresses by a potential, for training another one."""
    from dataclasses import replace

    import numpy as np

    from crysjax.data import datasets
    from crysjax.models import registry
    from crysjax.potentials.label import label as labeled
    from crysjax.potentials.mlip import unknown

    teacher, params, source = registry.load_potential(potential)
    dataset = read_part(path)
    with bar("label") as advance:
        found = labeled(dataset, teacher, params, progress=advance)
    size = np.linalg.norm(found.site_properties[datasets.FORCES], axis=-1)
    largest = np.maximum.reduceat(size, datasets.offsets(found)[:-1])
    known = np.isfinite(found.properties[datasets.ENERGY]) & (largest <= max_force)
    if not known.any():
        why = unknown(teacher.numbers, dataset.numbers)
        raise ValueError(f"{path}: {potential} has an answer for none of these crystals{why and '; '}{why}")
    found = replace(found, provenance=found.provenance | {"labelled_by": source.name})
    datasets.save(datasets.take(found, known), out)
    say(f"{out}: {known.sum()} crystals labeled, {(~known).sum()} left out: no answer, or a larger force")
    if why := unknown(teacher.numbers, dataset.numbers):
        say(f"crysjax: {why}", err=True)


@app.command()
def fetch(
    elements: str = typer.Argument(help="The chemical system, such as Li,Fe,O; its sub-systems come along."),
    out: Path = typer.Option(..., help="JSON table of entries to write, for --hull of `evaluate` and of a plan."),
    level: str = typer.Option("GGA_GGA+U", help="GGA_GGA+U, R2SCAN or GGA_GGA+U_R2SCAN; one file holds one."),
    url: str = typer.Option("", help="Address of the API, if it is not that of the Materials Project itself."),
) -> None:
    """Get formation energies of a chemical system from the Materials Project; the key is in MP_API_KEY."""
    from crysjax.data.readers import materials_project

    if out.suffix != ".json":
        raise ValueError(f"--out {out}: expected a name that ends in .json")
    symbols = [symbol for symbol in elements.replace(",", " ").split()]
    count = materials_project.pull(symbols, out, thermo_type=level, url=url or materials_project.URL)
    say(f"{out}: {count} entries of {level}")


def _fractions(text: str) -> dict[str, float]:
    try:
        return {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"--fractions {text}: expected NAME=SHARE,NAME=SHARE") from None


@app.command()
def audit(
    path: Path = typer.Argument(help="A data set file with splits."),
    out: Path | None = typer.Option(None, help="Write a report that a referee can read (.md)."),
    json_file: Path | None = typer.Option(None, "--json", help="Write everything that was found as JSON."),
    limit: int = typer.Option(300, min=1, help="Rows per pair of splits that StructureMatcher compares."),
    seed: int = typer.Option(0, help="Random seed of the choice of these rows."),
    time: str | None = typer.Option(None, help="The property that holds the time; by default found by its name."),
    symmetry_rows: int = typer.Option(
        2000, min=0, help="Rows per split whose prototype and Wyckoff sequence are found."
    ),
) -> None:
    """Find leaks between splits: repeats, twins with exchanged species, families, times, scaling, labels."""
    from crysjax.data import datasets, files
    from crysjax.splits import audit as leaks
    from crysjax.splits import audit_text

    if out is not None and out.suffix != ".md":
        raise ValueError(f"--out {out}: expected a name that ends in .md; --json FILE writes JSON")
    report = leaks.audit(datasets.load(path), limit=limit, seed=seed, time=time, symmetry_rows=symmetry_rows)
    say(audit_text.text(report))
    if out is not None:
        files.write(out, audit_text.markdown(report, path.name))
    if json_file is not None:
        files.write(json_file, json.dumps(report, indent=1))

"""`crysjax models references`: energies of the elements, which turn a potential's energies into formation energies."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from crysjax.terminal import bar, say


def references(
    potential: str = typer.Option(..., help="Name or path, such as nequix-mp-1."),
    check: str = typer.Option(..., help="PATH[:SPLIT] of crystals with formation energies: measures the error left."),
    fit: str = typer.Option("", help="PATH[:SPLIT] with formation energies to fit the element energies to; or:"),
    elements: str = typer.Option(
        "", help="PATH[:SPLIT] of elemental crystals, which are relaxed; the lowest of each counts."
    ),
    most: int = typer.Option(2000, min=1, help="Maximum number of crystals of --fit and of --check, drawn at random."),
    steps: int = typer.Option(200, min=1, help="Maximum number of evaluations of a relaxation."),
    seed: int = typer.Option(0, min=0, help="Random seed."),
    out: Path | None = typer.Option(None, help="Another file than the one that is read by itself, see above."),
) -> None:
    """Make the element energies of a potential, which are used wherever its formation energies are computed.

    Read are NAME.references.json beside the potential's file, or else references.json in the same folder.
    """
    import numpy as np

    from crysjax.chemistry.elements import SYMBOLS
    from crysjax.data import datasets, digests, files
    from crysjax.data.readers import reading
    from crysjax.data.readers.part import read_part, with_split
    from crysjax.models import references as reference_energies
    from crysjax.models import registry

    if bool(fit) == bool(elements):
        raise ValueError("references: expected either --fit or --elements")
    if check == fit:
        raise ValueError("--check: the same crystals as --fit, so that nothing would be held out")
    engine, params, path = registry.load_potential(potential)

    def drawn(text: str) -> datasets.Dataset:
        found = read_part(text)
        return datasets.take(found, np.sort(np.random.default_rng(seed).permutation(len(found))[:most]))

    with bar("element references") as advance:
        if fit:
            energies, lost = reference_energies.fitted(drawn(fit), engine, params, progress=advance), {}
        else:
            energies, lost = reference_energies.relaxed(
                read_part(elements), engine, params, steps=steps, progress=advance
            )
        left = reference_energies.error(drawn(check), energies, engine, params, progress=advance)
    if not len(left):
        raise ValueError(f"--check {check}: no crystal whose elements all have a reference")
    source = Path(with_split(fit or elements)[0])
    about = {
        "potential": path.name, "potential_sha256": reading.digest(path), "method": "fitted" if fit else "relaxed",
        "data": source.name, "data_sha256": None if source.is_dir() else reading.digest(source),
        "check": Path(check).name, "most": most, "seed": seed,
    }  # fmt: skip
    said = reference_energies.summary(energies, left, about)
    place = files.write(out or reference_energies.place(path), digests.sealed_json(json.dumps(said, indent=1)))
    for name, why in lost.items():
        say(f"{name}: {why}", err=True)
    without = [SYMBOLS[z - 1] for z in engine.numbers if not np.isfinite(energies[z - 1])]
    if without:
        say(f"without a reference: {', '.join(without)}", err=True)
    say(
        f"{place}: {len(said['element_ev'])} elements; formation energies of {len(left)} held-out crystals: root mean "
        f"square error {said['std_ev_per_atom']} eV/atom, bias {said['bias_ev_per_atom']:+} eV/atom"
    )

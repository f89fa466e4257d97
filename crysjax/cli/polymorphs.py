"""`crysjax polymorphs`: crystal structures of one composition, relaxed, without duplicates, ranked by energy."""

from __future__ import annotations

from pathlib import Path

import typer

from crysjax.terminal import Stopped, bar, printable, say


def polymorphs(
    formula: str = typer.Argument(help="The composition, such as SrTiO3."),
    out: Path = typer.Option(..., help="Folder for polymorphs.csv, crystals/*.cif, report.html and the batches."),
    count: int = typer.Option(64, "--count", "-n", min=1, help="Number of samples."),
    units: int = typer.Option(
        4, min=1, help="Maximum number of formula units in a cell; each number is drawn equally often."
    ),
    space_groups: str = typer.Option(
        "", help="Only these, such as 62,140,221; by default as the generator draws them."
    ),
    generator: str = typer.Option("mp_20_wyckoff", help="A generator: name or path."),
    templates: str = typer.Option("", help="PATH[:SPLIT] that a retrieval-based generator looks up from."),
    potential: str = typer.Option("student", help="Relaxes and ranks: name or path. The student is a screening model."),
    hull: list[str] = typer.Option([], help="Entries with formation energies, for energies above the hull."),
    steps: int = typer.Option(200, min=1, help="Maximum number of evaluations of a relaxation."),
    batch: int = typer.Option(
        32, min=1, help="Samples per batch; finished batches are kept when the search is stopped."
    ),
    seed: int = typer.Option(0, min=0, help="Random seed."),
) -> None:
    """Find polymorphs: sample structures of a composition, relax, leave out duplicates, rank by energy."""
    from crysjax import front

    with bar("polymorphs") as advance:
        try:
            found = front.polymorphs(
                formula, out, n=count, units=units, space_groups=_numbers(space_groups), generator=generator,
                templates=templates, potential=potential, hull=hull, steps=steps, batch=batch, seed=seed,
                progress=advance,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise Stopped(f"{out} keeps every batch that was finished, the same command goes on") from None
    from crysjax.campaign.polymorphs import told

    rows = found.crystals.properties
    for k, name in enumerate(found.crystals.ids[:10].tolist()):
        above, volume = rows["energy_above_lowest_ev_per_atom"][k], rows["volume_angstrom3_per_atom"][k]
        say(f"  {k + 1}. {printable(name):10s}{above:+.3f} eV/atom  {volume:.2f} Å³/atom")
    say(f"{told(found.counts)}; energies by {found.level}")
    say(f"{out / 'report.html'}, {out / 'polymorphs.csv'}, {out / 'crystals'}")


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise ValueError(f"--space-groups {text}: expected numbers such as 62,140,221")
    return tuple(map(int, parts))

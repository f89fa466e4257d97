"""`crysjax elasticity`: elastic constants, moduli and equations of state by an interatomic potential."""

from __future__ import annotations

from pathlib import Path

import typer

from crysjax.terminal import bar, printable, say


def elasticity(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help=".json or .csv: one row per crystal."),
    potential: str = typer.Option("student", help="Name or path; the student is quick and too soft, see README."),
    relax: bool = typer.Option(
        True, help="Relax positions and cell first: elastic constants are defined at a minimum."
    ),
    steps: int = typer.Option(500, min=1, help="Maximum number of steps of a relaxation."),
    fmax: float = typer.Option(0.01, min=0, help="Largest force that counts as relaxed, eV/Å."),
    eos: bool = typer.Option(
        True, "--eos/--no-eos", help="Also fit a Birch-Murnaghan equation of state, with relaxed ions."
    ),
    eos_range: float = typer.Option(0.06, help="Volumes of the equation of state: this fraction below and above."),
    remedy: int = typer.Option(
        0, min=0, help="Follow soft internal modes to lower polymorphs, at most this many times."
    ),
    structures: Path = typer.Option(
        None, help="File for the relaxed crystals; by default NAME_relaxed.extxyz beside --out."
    ),
) -> None:
    """Elastic tensor with relaxed ions, Voigt-Reuss-Hill moduli, stability, Debye temperature, equation of state.

    Tensors lie along the axes of the IEEE standard, which the crystal fixes and which each row states.
    """
    from crysjax.front import physics
    from crysjax.physics.elasticity.soft_ions import SOFT

    if out.suffix not in (".json", ".csv"):
        raise ValueError(f"--out {out}: expected a name that ends in .json or .csv")
    if not 0 < eos_range < 0.5:
        raise ValueError(f"--eos-range {eos_range}: expected a share of the volume above 0 and below 0.5")
    where = structures or out.with_name(f"{out.stem}_relaxed.extxyz")
    with bar("elasticity") as advance:
        said = physics.elasticity(
            crystals, potential, relax=relax, steps=steps, fmax=fmax, eos=eos, eos_range=eos_range, remedy=remedy,
            out=out, structures=where, progress=advance,
        )  # fmt: skip
    unstable = int((said.elastic.valid & ~said.elastic.moduli.stable).sum())
    if said.written:
        say(f"{where}: {said.written} crystals as they were asked about, {'relaxed' if relax else 'as given'}")
    say(f"{out}: {len(said.rows)} crystals, {unstable} elastically unstable, {(~said.elastic.valid).sum()} failed")
    for row in said.rows:
        if row["reason"]:
            hint = "; --remedy follows them to a lower polymorph" if row["reason"] == SOFT and not remedy else ""
            say(f"{printable(row['id'])}: {row['reason']}{hint}", err=True)

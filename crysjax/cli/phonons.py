"""`crysjax phonons`: bands, density of states and harmonic thermodynamics of a crystal by an interatomic potential."""

from __future__ import annotations

from pathlib import Path

import typer

from crysjax.data.readers.part import read_part
from crysjax.terminal import say

MOST_LEFT_OUT = 0.01  # of all modes: more is told


def phonons(
    crystal: str = typer.Argument(help="PATH[:SPLIT] of a crystal in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="Folder for bands.csv, dos.csv, thermal.csv, phonons.svg and summary.json."),
    potential: str = typer.Option("student", help="Name or path; the student is quick and too soft, see README."),
    row: int = typer.Option(0, min=0, help="Which crystal of the file, from 0."),
    length: float = typer.Option(10.0, min=1, help="Smallest edge of the supercell, Å."),
    mesh: float = typer.Option(0.02, min=0.001, help="Step between wave vectors of the density of states, 1/Å."),
    width: float = typer.Option(0.1, min=0.001, help="Smearing of the density of states, THz."),
    temperatures: str = typer.Option("50:1000:50", help="LOW:HIGH:STEP in K."),
    relax: bool = typer.Option(True, help="Whether to relax first; a crystal that is at no minimum has no phonons."),
    remedy: int = typer.Option(0, min=0, help="Follow soft modes to lower polymorphs, at most this many times."),
) -> None:
    """Phonons of a crystal: band structure, density of states, free energy, entropy and heat capacity."""
    import numpy as np

    from crysjax.data import datasets
    from crysjax.front import physics
    from crysjax.physics.phonons.analysis import summary

    kelvin, given = _temperatures(temperatures), read_part(crystal)
    if row >= len(given):
        raise ValueError(f"--row {row}: {crystal} holds {len(given)} crystals, the first is 0")
    said = physics.phonons(
        datasets.take(given, np.array([row])), potential, length_angstrom=length, mesh_per_angstrom=mesh,
        width_thz=width, temperatures_k=kelvin, relax=relax, remedy=remedy, out=out,
    )  # fmt: skip
    about, thermal = summary(said), said.thermal
    if thermal.left_out > MOST_LEFT_OUT:
        state = "thermal.csv is empty (nan)" if np.isnan(thermal.entropy).all() else "thermal.csv is too low"
        shares = f"{100 * thermal.left_out:.3g} % of the modes, {100 * thermal.imaginary:.3g} % imaginary"
        say(f"{out}: {shares}, have no thermal average: {state}; --remedy looks for a stable form", err=True)
    state = "no imaginary modes" if about["stable"] else f"imaginary modes down to {about['lowest_thz']:.2f} THz"
    say(f"{out}: {about['atoms']} atoms, last peak at {about['last_peak_per_cm']:.1f} cm⁻¹, {state}")


def _temperatures(text: str) -> list[float]:
    import numpy as np

    try:
        low, high, step = map(float, text.split(":"))
        if not (0 < low <= high < 1e5 and step > 0 and (high - low) / step < 1e5):
            raise ValueError
    except ValueError:
        raise ValueError(f"--temperatures {text}: expected LOW:HIGH:STEP in K, above 0") from None
    return np.arange(low, high + step / 2, step).tolist()

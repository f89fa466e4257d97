"""`crysjax diffraction` and `solve`: powder patterns of crystals, and crystals from a powder pattern."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.data.readers.part import read_part
from crysjax.terminal import bar, printable, say

if TYPE_CHECKING:
    import numpy as np

NO_SOLUTION = 3


def diffraction(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="CSV to write: one row per peak, or per point with --profile."),
    radiation: str = typer.Option("CuKa", help="An X-ray line such as CuKa1 or MoKa, or neutron."),
    wavelength: float | None = typer.Option(None, help="Wavelength, Å, instead of that of --radiation."),
    angles: str = typer.Option("0:90", help="LOW:HIGH, 2θ in degrees."),
    profile: bool = typer.Option(False, "--profile", help="Write the smooth pattern instead of its peaks."),
    fwhm: float = typer.Option(0.1, help="Full width at half maximum of the peaks of a profile, degrees in 2θ."),
    pairs: float | None = typer.Option(
        None,
        "--pair-distribution",
        min=0.5,
        max=50,
        help="Write G(r) up to this distance, Å, instead, weighted as --radiation scatters.",
    ),
) -> None:
    """Compute powder patterns (strongest peak 100; a profile has peaks of these areas) or pair distributions."""
    from crysjax.front import physics

    seen = {"radiation": radiation, "wavelength": wavelength}
    if pairs is not None:
        found = physics.pair_distribution(crystals, pairs, **seen, out=out)
        reasons = found.reason
    else:
        asked = {"angles": _angles(angles), "profile": profile, "fwhm": _width(fwhm)}
        found = physics.diffraction(crystals, **seen, **asked, out=out)
        reasons = [one.reason for one in found.peaks]
    bad = [(name, reason) for name, reason in zip(found.ids, reasons) if reason]
    say(f"{out}: {len(reasons) - len(bad)} patterns, {len(bad)} failed")
    for name, reason in bad:
        say(f"{printable(name)}: {reason}", err=True)


def solve(
    pattern: Path = typer.Argument(help="CSV of 2θ in degrees and intensity: a profile in equal steps, or peaks."),
    formula: str = typer.Option(..., help="Atoms of one formula unit, such as SrTiO3."),
    out: Path = typer.Option(..., help="Candidates, best first: .npz, .extxyz, .cif, or a folder of CIFs."),
    units: int = typer.Option(1, min=1, help="Formula units in the cell."),
    cell: str = typer.Option("", help="PATH of one crystal with the known cell; by default the cell is searched too."),
    starts: int = typer.Option(64, min=1, help="Number of random starts."),
    begin: str = typer.Option("", "--from", help="PATH[:SPLIT] of crystals to start from instead, such as samples."),
    keep: int = typer.Option(10, min=1, help="Maximum number of candidates to write."),
    radiation: str = typer.Option("CuKa", help="An X-ray line such as CuKa1 or MoKa, or neutron."),
    wavelength: float | None = typer.Option(None, help="Wavelength, Å, instead of that of --radiation."),
    fwhm: float = typer.Option(0.1, help="Full width at half maximum of the peaks, degrees in 2θ."),
    background: int = typer.Option(
        None, min=0, max=20, help="Terms of a smooth background; by default 6 if the pattern has one."
    ),
    zero: float = typer.Option(
        None, "--zero-shift", help="How much too high the angles are, degrees; by default found, with --cell."
    ),
    steps: int = typer.Option(100, min=1, help="Steps of each of the four stages."),
    method: str = typer.Option("adam", help="adam, or langevin for sampling."),
    seed: int = typer.Option(0, help="Random seed."),
    accept: float = typer.Option(20.0, help="Largest Rwp of a solution, in %, if noise alone would give less."),
) -> None:
    """Find crystals whose powder pattern is the given one.

    A candidate is a solution if its Rwp (with the background subtracted) is at most --accept, or at most 3 standard
    deviations above the Rwp that the noise of the pattern alone would give; both are printed. A wrong structure with
    similar peaks can be below --accept, so compare with the value of noise alone.

    The exit status is 3 where no candidate explains the pattern; the file then holds misfits, best first.
    """
    from crysjax.chemistry import scattering
    from crysjax.data.readers import io
    from crysjax.physics.diffraction import measured
    from crysjax.physics.diffraction.pattern import Shape
    from crysjax.physics.diffraction.solve import RWP, Descent, distinct
    from crysjax.physics.diffraction.solve import solve as search

    if not 0 < accept <= 100:
        raise ValueError(f"--accept {accept}: expected a share above 0 and up to 100, in %")
    io.refuse_other_suffixes(out)
    numbers, shape = _atoms(formula, units), Shape(w=_width(fwhm) ** 2)
    table = scattering.scattering(radiation, wavelength_angstrom=wavelength)
    angle, intensity = measured.read(pattern, shape)
    given = read_part(cell) if cell else None
    if given is not None and len(given) != 1:
        raise ValueError(f"--cell {cell}: {len(given)} crystals; expected one")
    with bar("solve") as advance:
        found = search(
            angle, intensity, numbers, lattice=None if given is None else given.lattice[0],
            starts=read_part(begin) if begin else starts, table=table, shape=shape,
            descent=Descent(steps=steps, method=method), seed=seed, progress=advance,
            **measured.of_instrument(pattern, intensity, background, zero),
        )  # fmt: skip
    if shift := found.provenance["zero_degree"]:
        say(f"{pattern}: zero shift {shift:.3f} degrees", err=True)
    expected, limit = (100 * found.provenance[key] for key in ("rwp_expected", "rwp_noise_limit"))
    limit, by = (limit, "what noise explains") if limit > accept else (accept, "--accept")
    best = measured.told(distinct(found, keep), limit / 100)
    io.write(best, out)
    if broken := found.provenance["broken"]:
        say(f"{broken} of {found.provenance['starts']} starts broke and are left out", err=True)
    solved, least = int(best.properties[measured.SOLVED].sum()), 100 * best.properties[RWP][0]
    reached = f"Rwp {least:.2f} % at best, {expected:.2f} % expected of noise alone"
    if not solved:
        say(f"{out}: no solution found: {reached}, of {len(best)} different candidates, above the "
            f"{limit:.4g} % of {by}; they are kept as misfits")  # fmt: skip
        raise typer.Exit(NO_SOLUTION)
    say(f"{out}: {len(best)} different candidates, {solved} up to the {limit:.4g} % of {by}: {reached}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _atoms(formula: str, units: int) -> np.ndarray:
    """Atomic numbers of the cell."""
    import numpy as np

    from crysjax.sampling import options

    if not re.fullmatch(r"([A-Z][a-z]?([1-9][0-9]*)?)+", formula):
        raise ValueError(f"--formula {formula}: expected symbols and whole numbers, such as SrTiO3")
    parts = re.findall(r"([A-Z][a-z]?)([0-9]*)", formula)
    known = [options.atomic_number("--formula", symbol, None) for symbol, _ in parts]
    return np.repeat(known, [int(count or 1) * units for _, count in parts])


def _angles(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    if not (_is_number(low) and _is_number(high) and 0 <= float(low) < float(high) <= 180):
        raise ValueError(f"--angles {text}: expected LOW:HIGH, from 0 to 180 degrees")
    return float(low), float(high)


def _width(fwhm: float) -> float:
    if not 0 < fwhm < 20:
        raise ValueError(f"--fwhm {fwhm}: expected a width above 0, in degrees")
    return fwhm

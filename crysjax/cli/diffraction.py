"""`crysjax diffraction` and `solve`: powder patterns of crystals, and crystals from a powder pattern."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.data.readers.part import read_part
from crysjax.sampling import options
from crysjax.terminal import bar, printable, say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.data.datasets import Dataset
    from crysjax.physics.diffraction.pattern import Shape

STEP_DEGREE = 0.05
BACKGROUND = 0.02  # of the strongest point: what nine tenths of the points stay above tells that none was taken off
TERMS = 6  # of a background that is fitted without being asked
SOLVED, NO_SOLUTION = "solved", 3


def diffraction(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="CSV to write: one row per peak, or per point with --profile."),
    radiation: str = typer.Option("CuKa", help="An X-ray line such as CuKa1 or MoKa, or neutron."),
    wavelength: float | None = typer.Option(None, help="In Å, instead of the line's own."),
    angles: str = typer.Option("0:90", help="LOW:HIGH, 2θ in degrees."),
    profile: bool = typer.Option(False, "--profile", help="The smooth pattern instead of its peaks."),
    fwhm: float = typer.Option(0.1, help="Width of the peaks of a profile, degrees."),
) -> None:
    """Powder diffraction patterns; the strongest peak is 100, intensities of a profile are areas of such peaks."""

    import numpy as np

    from crysjax.chemistry import scattering
    from crysjax.data import files
    from crysjax.data.readers.powder import ANGLE, ID, INTENSITY
    from crysjax.physics.diffraction.pattern import Reflections, Shape
    from crysjax.physics.diffraction.pattern import profile as broadened
    from crysjax.physics.diffraction.peaks import peaks

    low, high = _angles(angles)
    shape = Shape(w=_width(fwhm) ** 2)
    table = scattering.scattering(radiation, wavelength_angstrom=wavelength, dtype=np.float64)
    dataset = read_part(crystals)
    found = peaks(dataset, table, two_theta_degree=(low, high))
    step = min(STEP_DEGREE, fwhm / 2)
    grid = np.arange(low, high + step / 2, step)
    head, lines = [ID, ANGLE, INTENSITY, *([] if profile else ["d_angstrom", "h", "k", "l", "multiplicity"])], []
    for name, one in zip(dataset.ids, found):
        if profile and not one.reason:
            values = broadened(Reflections(one.two_theta, one.intensity, np.array(True)), grid, shape)
            lines += [(name, f"{x:.4f}", f"{y:.6g}") for x, y in zip(grid, values)]
        elif not one.reason:
            columns = zip(one.two_theta, one.intensity, one.d_angstrom, one.hkl.tolist(), one.multiplicity)
            lines += [(name, f"{x:.5f}", f"{y:.5f}", f"{d:.6f}", *h, n) for x, y, d, h, n in columns]
    files.write(out, files.csv_text(head, lines))
    bad = [(name, one.reason) for name, one in zip(dataset.ids, found) if one.reason]
    say(f"{out}: {len(dataset) - len(bad)} patterns, {len(bad)} failed")
    for name, reason in bad:
        say(f"{printable(name)}: {reason}", err=True)


def solve(
    pattern: Path = typer.Argument(help="CSV of 2θ in degrees and intensity: a profile in equal steps, or peaks."),
    formula: str = typer.Option(..., help="Atoms of one formula unit, such as SrTiO3."),
    out: Path = typer.Option(..., help="Candidates, best first: .npz, .extxyz, .cif, or a folder of CIFs."),
    units: int = typer.Option(1, min=1, help="Formula units in the cell."),
    cell: str = typer.Option("", help="PATH of one crystal whose cell this is; left out, the cell is searched too."),
    starts: int = typer.Option(64, min=1, help="How many random starts."),
    begin: str = typer.Option("", "--from", help="PATH[:SPLIT] of crystals to start from instead, such as samples."),
    keep: int = typer.Option(10, min=1, help="Most candidates to write."),
    radiation: str = typer.Option("CuKa", help="An X-ray line such as CuKa1 or MoKa, or neutron."),
    wavelength: float | None = typer.Option(None, help="In Å, instead of the line's own."),
    fwhm: float = typer.Option(0.1, help="Width of the peaks, degrees."),
    background: int = typer.Option(
        None, min=0, max=20, help="Terms of a smooth background; left out: 6 if it has one."
    ),
    zero: float = typer.Option(
        None, "--zero-shift", help="How much too high angles are, degrees; left out: found by --cell."
    ),
    steps: int = typer.Option(100, min=1, help="Of each of four stages."),
    method: str = typer.Option("adam", help="adam, or langevin for sampling."),
    seed: int = typer.Option(0, help="Of all draws."),
    accept: float = typer.Option(20.0, help="Largest Rwp, in %, of a solution, where noise alone gives less."),
) -> None:
    """Find crystals whose powder pattern is the given one.

    A candidate is a solution if its Rwp, of what lies above the background, is at most that of --accept, or at most 3
    standard deviations above what the noise of the pattern gives by itself; both are printed. A wrong structure of
    similar peaks can stay below --accept: compare with what noise gives.

    The exit status is 3 where no candidate explains the pattern; the file then holds misfits, best first.
    """
    from crysjax.chemistry import scattering
    from crysjax.data import datasets
    from crysjax.data.readers import io
    from crysjax.physics.diffraction.pattern import Shape
    from crysjax.physics.diffraction.solve import RWP, Descent, distinct
    from crysjax.physics.diffraction.solve import solve as search

    if not 0 < accept <= 100:
        raise ValueError(f"--accept {accept}: expected a share above 0 and up to 100, in %")
    numbers, shape = _atoms(formula, units), Shape(w=_width(fwhm) ** 2)
    table = scattering.scattering(radiation, wavelength_angstrom=wavelength)
    angle, intensity = _read(pattern, shape)
    given = read_part(cell) if cell else None
    if given is not None and len(given) != 1:
        raise ValueError(f"--cell {cell}: {len(given)} crystals; expected one")
    with bar("solve") as advance:
        found = search(
            angle, intensity, numbers, lattice=None if given is None else given.lattice[0],
            starts=read_part(begin) if begin else starts, table=table, shape=shape,
            descent=Descent(steps=steps, method=method), seed=seed, progress=advance,
            **_of_instrument(pattern, intensity, background, zero),
        )  # fmt: skip
    if shift := found.provenance["zero_degree"]:
        say(f"{pattern}: zero shift {shift:.3f} degrees", err=True)
    expected, limit = (100 * found.provenance[key] for key in ("rwp_expected", "rwp_noise_limit"))
    limit, by = (limit, "what noise explains") if limit > accept else (accept, "--accept")
    best = judged(distinct(found, keep), limit / 100)
    datasets.save(best, out) if out.suffix == ".npz" else io.write_crystals(best, out)
    if broken := found.provenance["broken"]:
        say(f"{broken} of {found.provenance['starts']} starts broke and are left out", err=True)
    solved, least = int(best.properties[SOLVED].sum()), 100 * best.properties[RWP][0]
    reached = f"Rwp {least:.2f} % at best, {expected:.2f} % expected of noise alone"
    if not solved:
        say(f"{out}: no solution found: {reached}, of {len(best)} different candidates, above the "
            f"{limit:.4g} % of {by}; they are kept as misfits")  # fmt: skip
        raise typer.Exit(NO_SOLUTION)
    say(f"{out}: {len(best)} different candidates, {solved} up to the {limit:.4g} % of {by}: {reached}")


def judged(candidates: Dataset, accept: float) -> Dataset:
    """Candidates with a property `solved`, 1 or 0; those that do not explain the pattern are called misfits."""
    from dataclasses import replace

    import numpy as np

    from crysjax.physics.diffraction.solve import RWP

    solved = candidates.properties[RWP] <= accept
    ids = np.array([name if good else f"misfit-{k:04d}" for k, (name, good) in enumerate(zip(candidates.ids, solved))])
    return replace(candidates, ids=ids, properties=candidates.properties | {SOLVED: solved.astype(np.float32)})


def _read(path: Path, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """2θ and intensity of a file; a list of peaks is broadened by `shape`. What is made of it is told."""
    import numpy as np

    from crysjax.data.readers import powder
    from crysjax.physics.diffraction.pattern import Reflections, profile

    found = powder.read(path)
    x, y = found.two_theta, found.intensity
    say(f"{path}: {len(x)} {'points of a profile' if found.is_profile else 'peaks'}")
    if found.unread:
        say(f"{path}: not used: columns {', '.join(found.unread)}", err=True)
    if not found.is_profile:
        step = min(STEP_DEGREE, shape.w**0.5 / 2)
        grid = np.arange(max(x.min() - 5, 1), min(x.max() + shape.w**0.5, 179), step)  # more may lie beyond
        return grid, profile(Reflections(x, y, np.array(True)), grid, shape)
    return x, y


def _of_instrument(path: Path, y: np.ndarray, background: int | None, zero: float | None) -> dict:
    """Background and zero shift to fit: what is asked for, else both if the pattern has a background, as measured."""
    import numpy as np

    floor = np.quantile(y, 0.1) / max(y.max(), 1e-300)
    measured = floor > BACKGROUND
    if background is None:
        background = TERMS if measured else 0
    if measured:
        fitted = f"fitted by {background} terms" if background else "not fitted and counts as misfit"
        say(f"{path}: a background of about {_range(y)} % of the strongest point, {fitted}", err=True)
    if zero is not None and not abs(zero) <= 1:
        raise ValueError(f"--zero-shift {zero}: expected degrees, from -1 to 1")
    return {"background": background, "zero_degree": 0.0 if zero is None and not measured else zero}


def _range(y: np.ndarray) -> str:
    """From where to where a background goes, in % of the strongest point: by the lower points of each tenth."""
    import numpy as np

    low = [100 * np.quantile(part, 0.1) / y.max() for part in np.array_split(y, 10) if len(part)]
    return f"{min(low):.0f} to {max(low):.0f}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _atoms(formula: str, units: int) -> np.ndarray:
    """Atomic numbers of the cell."""
    import numpy as np

    if not re.fullmatch(r"([A-Z][a-z]?([1-9][0-9]*)?)+", formula):
        raise ValueError(f"--formula {formula}: expected symbols and whole numbers, such as SrTiO3")
    parts = re.findall(r"([A-Z][a-z]?)([0-9]*)", formula)
    known = [options.symbols("--formula", symbol, None)[0] for symbol, _ in parts]
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

"""`crysjax diffraction` and `solve`: powder patterns of crystals, and crystals from a powder pattern."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.cli import constraints
from crysjax.cli.data import read_part
from crysjax.cli.show import printable, say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.properties.diffraction import Shape

ID, ANGLE, INTENSITY = "id", "two_theta_degree", "intensity"
STEP_DEGREE = 0.05
UNEVEN = 0.01  # relative: a profile is measured in equal steps, a list of peaks is not


def diffraction(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="CSV to write: a row a peak, or a row a point with --profile."),
    radiation: str = typer.Option("CuKa", help="An X-ray line such as CuKa1 or MoKa, or neutron."),
    wavelength: float | None = typer.Option(None, help="In Å, instead of the line's own."),
    angles: str = typer.Option("0:90", help="LOW:HIGH, 2θ in degrees."),
    profile: bool = typer.Option(False, "--profile", help="The smooth pattern instead of its peaks."),
    fwhm: float = typer.Option(0.1, help="Width of the peaks of a profile, degrees."),
) -> None:
    """Powder diffraction patterns; the strongest peak is 100, intensities of a profile are areas of such peaks."""
    import numpy as np

    from crysjax.data import files, scattering
    from crysjax.properties import diffraction as patterns

    low, high = _angles(angles)
    width = _width(fwhm)
    table = scattering.scattering(radiation, wavelength_angstrom=wavelength, dtype=np.float64)
    dataset = read_part(crystals)
    found = patterns.peaks(dataset, table, two_theta_degree=(low, high))
    grid = np.arange(low, high + STEP_DEGREE / 2, STEP_DEGREE)
    head, lines = [ID, ANGLE, INTENSITY, *([] if profile else ["d_angstrom", "h", "k", "l", "multiplicity"])], []
    for name, peaks in zip(dataset.ids, found):
        if peaks.reason:
            say(f"{printable(name)}: {peaks.reason}", err=True)
        elif profile:
            values = peaks.intensity @ patterns.peak_shapes(peaks.two_theta, grid, patterns.Shape(w=width**2))
            lines += [(name, f"{x:.4f}", f"{y:.6g}") for x, y in zip(grid, values)]
        else:
            rows = zip(peaks.two_theta, peaks.intensity, peaks.d_angstrom, peaks.hkl.tolist(), peaks.multiplicity)
            lines += [(name, f"{x:.5f}", f"{y:.5f}", f"{d:.6f}", h, k, m, n) for x, y, d, (h, k, m), n in rows]
    files.write(out, files.csv_text(head, lines))
    failed = sum(bool(peaks.reason) for peaks in found)
    say(f"{out}: {len(dataset) - failed} patterns, {failed} failed")


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
    steps: int = typer.Option(100, min=1, help="Of each of four stages."),
    method: str = typer.Option("adam", help="adam, or langevin for sampling."),
    seed: int = typer.Option(0, help="Of all draws."),
) -> None:
    """Find crystals whose powder pattern is the given one."""
    import numpy as np

    from crysjax.campaign.solve import RWP, Descent
    from crysjax.campaign.solve import solve as search
    from crysjax.data import datasets, io, scattering
    from crysjax.properties.diffraction import Shape

    numbers, shape = _atoms(formula, units), Shape(w=_width(fwhm) ** 2)
    table = scattering.scattering(radiation, wavelength_angstrom=wavelength)
    angle, intensity = read_pattern(pattern, shape)
    given = read_part(cell) if cell else None
    if given is not None and len(given) != 1:
        raise ValueError(f"--cell {cell}: {len(given)} crystals; expected one")
    found = search(
        angle, intensity, numbers, lattice=None if given is None else given.lattice[0],
        starts=read_part(begin) if begin else starts, table=table, shape=shape,
        descent=Descent(steps=steps, method=method), seed=seed,
    )  # fmt: skip
    best = datasets.take(found, np.arange(min(keep, len(found))))
    datasets.save(best, out) if out.suffix == ".npz" else io.write_crystals(best, out)
    say(f"{out}: {len(best)} candidates, Rwp {100 * best.properties[RWP][0]:.2f} % at best")


def read_pattern(path: Path, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """2θ and intensity of a file; a list of peaks is broadened by `shape`."""
    import numpy as np

    from crysjax.data import reading
    from crysjax.properties.diffraction import peak_shapes

    rows = [re.split(r"[,;\s]+", line.strip()) for line in reading.read_text(path).splitlines()]
    rows = [row for row in rows if row != [""] and not row[0].startswith("#")]
    head = rows.pop(0) if rows and not _is_number(rows[0][0]) else []
    first, second = (head.index(n) for n in (ANGLE, INTENSITY)) if {ANGLE, INTENSITY} <= set(head) else (0, 1)
    if ID in head and len({row[head.index(ID)] for row in rows}) > 1:
        raise ValueError(f"{path}: patterns of several crystals; expected one")
    try:
        x, y = np.array([(float(row[first]), float(row[second])) for row in rows]).T
    except (ValueError, IndexError):
        raise ValueError(f"{path}: expected rows of 2θ and intensity, with a header or without") from None
    steps = np.diff(x)
    if len(x) > 2 and np.ptp(steps) <= UNEVEN * steps.mean():
        return x, y
    grid = np.arange(max(x.min() - 5, 1), min(x.max() + shape.w**0.5, 179), STEP_DEGREE)  # more may lie beyond
    return grid, y @ peak_shapes(x, grid, shape)


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
    known = [constraints.symbols("--formula", symbol, None)[0] for symbol, _ in parts]
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

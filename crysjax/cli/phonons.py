"""`crysjax phonons`: bands, density of states and harmonic thermodynamics of a crystal by an interatomic potential."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.crystallography.band_paths import BandPath
    from crysjax.data.datasets import Entry
    from crysjax.physics.phonons.driver import Phonons
    from crysjax.physics.phonons.thermodynamics import Dos, Thermal

MOST_LEFT_OUT = 0.01  # of all modes: more is told
KJ_PER_MOL_EV = 96.48533212  # 1 eV a particle, CODATA 2018
WIDTH, HEIGHT, TOP, BOTTOM, LEFT, BANDS, GAP = 900, 480, 20, 440, 64, 600, 20  # of the drawing
STYLE = (
    "text{font:13px sans-serif;fill:#222}.grid{stroke:#ddd}.edge{stroke:#777}.zero{stroke:#777;stroke-dasharray:4 3}"
    ".band{fill:none;stroke:#1f5fa8;stroke-width:1.4}.dos{fill:#1f5fa833;stroke:#1f5fa8}"
)


def phonons(
    crystal: str = typer.Argument(help="PATH[:SPLIT] of a crystal in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help="Folder for bands.csv, dos.csv, thermal.csv, phonons.svg and summary.json."),
    potential: str = typer.Option("student", help="Name or path; the student is quick and too soft, see README."),
    row: int = typer.Option(0, min=0, help="Which crystal of the file, from 0."),
    length: float = typer.Option(10.0, min=1, help="Least edge of the supercell, Å."),
    mesh: float = typer.Option(0.02, min=0.001, help="Step between wave vectors of the density of states, 1/Å."),
    width: float = typer.Option(0.1, min=0.001, help="Smearing of the density of states, THz."),
    temperatures: str = typer.Option("50:1000:50", help="LOW:HIGH:STEP in K."),
    relax: bool = typer.Option(True, help="Whether to relax first; a crystal that is at no minimum has no phonons."),
    remedy: int = typer.Option(0, min=0, help="Follow soft modes to lower polymorphs, at most this many times."),
) -> None:
    """Phonons of a crystal: band structure, density of states, free energy, entropy and heat capacity."""
    import numpy as np

    from crysjax.crystallography.band_paths import band_path
    from crysjax.data import files
    from crysjax.data.readers import io
    from crysjax.physics.phonons import driver as oracle

    kelvin = _temperatures(temperatures)
    engine, params, _ = registry.load_potential(potential)
    entry, reason = _chosen(crystal, row), ""
    if relax:
        entry, _, reason = oracle.relaxed(engine, params, [entry])[0]
    if reason:
        raise ValueError(f"{crystal}: {reason}")
    asked = {"length_angstrom": length, "mesh_per_angstrom": mesh}
    found = oracle.phonons(engine, params, entry, **asked)
    if not found.valid:
        raise ValueError(f"{crystal}: {found.reason}")
    remedies = []
    for _ in range(remedy):
        step = oracle.remedy(engine, params, found, **asked)
        remedies.append({"gain_ev_per_atom": step.gain_ev_per_atom, "q": step.q.tolist(), "reason": step.reason})
        if step.reason or not step.phonons.valid:
            break
        found = step.phonons
    path = band_path(found.crystal)
    bands, density, thermal = oracle.frequencies_at(found, path.q), _density(found, width), _thermal(found, kelvin)
    out.mkdir(parents=True, exist_ok=True)
    modes = [f"mode_{k + 1}_thz" for k in range(bands.shape[1])]
    points = np.concatenate([path.distance[:, None], path.q, bands], 1)
    files.write(out / "bands.csv", _csv(["distance_per_a", "q1", "q2", "q3", *modes], points))
    names = ["frequency_thz", "modes_per_thz_per_cell"]
    files.write(out / "dos.csv", _csv(names, zip(density.frequency, density.density)))
    files.write(out / "thermal.csv", _thermal_table(thermal, found.crystal.numbers))
    title = f"{found.crystal.id}, {potential}"
    files.write(out / "phonons.svg", drawing(title, path, bands, density))
    io.write_crystals([found.crystal], out / "crystal.cif")
    summary = _summary(found, bands, density, thermal) | {"potential": potential, "remedies": remedies}
    files.write(out / "summary.json", json.dumps(summary, indent=1))
    peak = summary["last_peak_per_cm"]
    if thermal.left_out > MOST_LEFT_OUT:
        state = "thermal.csv is empty (nan)" if np.isnan(thermal.entropy).all() else "thermal.csv is too low"
        shares = f"{100 * thermal.left_out:.3g} % of the modes, {100 * thermal.imaginary:.3g} % imaginary"
        say(f"{out}: {shares}, have no thermal average: {state}; --remedy looks for a stable form", err=True)
    state = "no imaginary modes" if summary["stable"] else f"imaginary modes down to {summary['lowest_thz']:.2f} THz"
    say(f"{out}: {len(found.crystal.numbers)} atoms, last peak at {peak:.1f} cm⁻¹, {state}")


def _chosen(text: str, row: int) -> Entry:
    from crysjax.data import datasets

    given = datasets.entries(read_part(text))
    if row >= len(given):
        raise ValueError(f"--row {row}: {text} holds {len(given)} crystals, the first is 0")
    return given[row]


def _temperatures(text: str) -> np.ndarray:
    import numpy as np

    try:
        low, high, step = map(float, text.split(":"))
        if not (0 < low <= high < 1e5 and step > 0 and (high - low) / step < 1e5):
            raise ValueError
    except ValueError:
        raise ValueError(f"--temperatures {text}: expected LOW:HIGH:STEP in K, above 0") from None
    return np.arange(low, high + step / 2, step)


def _density(found: Phonons, width_thz: float) -> Dos:
    import jax
    import numpy as np

    from crysjax.physics.phonons import thermodynamics

    with jax.enable_x64(True):
        given = [jax.numpy.asarray(x) for x in (found.frequencies, found.weight)]
        grid = jax.numpy.asarray(thermodynamics.even_grid(found.frequencies, width_thz))
        said = thermodynamics.dos(*given, grid=grid, width_thz=width_thz)
        return jax.tree.map(np.asarray, said)


def _thermal(found: Phonons, kelvin: np.ndarray) -> Thermal:
    import jax
    import numpy as np

    from crysjax.physics.phonons import thermodynamics

    with jax.enable_x64(True):
        given = [jax.numpy.asarray(x) for x in (found.frequencies, found.weight, kelvin)]
        return jax.tree.map(np.asarray, thermodynamics.thermal(*given))


def _thermal_table(thermal: Thermal, numbers: np.ndarray) -> str:
    """Of a primitive cell, and of a mole of formula units, which does not depend on how many a cell holds."""
    names = ["temperature_k", "free_energy_ev_per_cell", "entropy_ev_per_k_per_cell", "heat_capacity_ev_per_k_per_cell",
             "free_energy_kj_per_mol_formula", "entropy_j_per_k_per_mol_formula",
             "heat_capacity_j_per_k_per_mol_formula"]  # fmt: skip
    per_mole = KJ_PER_MOL_EV / _formula_units(numbers)
    of_formula = (
        thermal.free_energy * per_mole,
        thermal.entropy * per_mole * 1e3,
        thermal.heat_capacity * per_mole * 1e3,
    )
    return _csv(names, zip(*thermal[:4], *of_formula))


def _formula_units(numbers: np.ndarray) -> int:
    """How many formula units a cell holds."""
    import numpy as np

    return int(np.gcd.reduce(np.unique(numbers, return_counts=True)[1]))


def _summary(found: Phonons, bands: np.ndarray, density: Dos, thermal: Thermal) -> dict:
    from crysjax.chemistry.elements import formula
    from crysjax.physics.phonons import thermodynamics
    from crysjax.physics.phonons.driver import STABLE_THZ
    from crysjax.physics.phonons.vibrations import PER_CM

    lowest = float(min(found.frequencies.min(), bands.min()))
    peak = thermodynamics.last_peak(density)
    return {
        "atoms": len(found.crystal.numbers), "supercell": list(found.cell.repeats), "products": found.products,
        "energy_ev_per_atom": found.energy_ev_per_atom, "stable": lowest > STABLE_THZ, "lowest_thz": lowest,
        "highest_thz": float(found.frequencies.max()), "last_peak_thz": peak, "last_peak_per_cm": peak * PER_CM,
        "modes_left_out": float(thermal.left_out), "modes_imaginary": float(thermal.imaginary),
        "formula": formula(found.crystal.numbers), "formula_units_per_cell": _formula_units(found.crystal.numbers),
    }  # fmt: skip


def _csv(names: list[str], rows: Iterable[Iterable[float]]) -> str:
    from crysjax.data import files

    return files.csv_text(names, ([f"{v:.8g}" for v in row] for row in rows))


def drawing(title: str, path: BandPath, bands: np.ndarray, density: Dos) -> str:
    """A standalone SVG: bands along the path, and the density of states at their side on the same scale."""
    import numpy as np

    from crysjax.reports.charts import Scale

    scale = Scale.over([0.0, float(bands.min()), float(bands.max())])
    place = lambda thz: TOP + (scale.high - thz) / (scale.high - scale.low) * (BOTTOM - TOP)  # noqa: E731
    along = lambda d: LEFT + d / path.distance[-1] * BANDS  # noqa: E731
    right = WIDTH - GAP
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{place(t):.1f}" y2="{place(t):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{place(t) + 4:.1f}" text-anchor="end">{t + 0.0:.4g}</text>'
        for t in scale.ticks()
    ]
    parts.append(f'<line class="zero" x1="{LEFT}" x2="{right}" y1="{place(0):.1f}" y2="{place(0):.1f}"/>')
    for d, name in path.ticks:
        parts.append(f'<line class="edge" x1="{along(d):.1f}" x2="{along(d):.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        parts.append(f'<text x="{along(d):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{html.escape(name)}</text>')
    for part in np.unique(path.part):
        own = path.part == part
        for mode in bands[own].T:
            points = " ".join(f"{along(d):.1f},{place(f):.1f}" for d, f in zip(path.distance[own], mode))
            parts.append(f'<polyline class="band" points="{points}"/>')
    start, most = LEFT + BANDS + GAP, max(float(density.density.max()), 1e-9)
    inside = (density.frequency >= scale.low) & (density.frequency <= scale.high)
    points = [
        f"{start + g / most * (right - start):.1f},{place(f):.1f}"
        for f, g in zip(density.frequency[inside], density.density[inside])
    ]
    parts.append(f'<polyline class="dos" points="{" ".join(points)}"/>')
    middle = (TOP + BOTTOM) / 2
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">frequency, THz</text>')
    parts.append(f'<text x="{(start + right) / 2}" y="{BOTTOM + 20}" text-anchor="middle">density of states</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"><title>{html.escape(title)}</title>'
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )

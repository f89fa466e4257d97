"""Files of a crystal's phonons: tables of bands, density of states and thermodynamics, a drawing, and a summary."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from crysjax.crystallography.band_paths import BandPath
from crysjax.data import files
from crysjax.data.readers import io
from crysjax.physics.phonons.analysis import Analysis, formula_units, summary
from crysjax.physics.phonons.thermodynamics import Dos, Thermal
from crysjax.reports.charts import Scale

KJ_PER_MOL_EV = 96.48533212  # 1 eV a particle, CODATA 2018
WIDTH, HEIGHT, TOP, BOTTOM, LEFT, BANDS, GAP = 900, 480, 20, 440, 64, 600, 20  # of the drawing
STYLE = (
    "text{font:13px sans-serif;fill:#222}.grid{stroke:#ddd}.edge{stroke:#777}.zero{stroke:#777;stroke-dasharray:4 3}"
    ".band{fill:none;stroke:#1f5fa8;stroke-width:1.4}.dos{fill:#1f5fa833;stroke:#1f5fa8}"
)


def write(folder: Path, said: Analysis, potential: str) -> None:
    """bands.csv, dos.csv, thermal.csv, phonons.svg, crystal.cif and summary.json of what `potential` says."""
    found, path = said.phonons, said.path
    folder.mkdir(parents=True, exist_ok=True)
    modes = [f"mode_{k + 1}_thz" for k in range(said.bands.shape[1])]
    points = np.concatenate([path.distance[:, None], path.q, said.bands], 1)
    files.write(folder / "bands.csv", _csv(["distance_per_a", "q1", "q2", "q3", *modes], points))
    names = ["frequency_thz", "modes_per_thz_per_cell"]
    files.write(folder / "dos.csv", _csv(names, zip(said.density.frequency, said.density.density)))
    files.write(folder / "thermal.csv", _thermal_table(said.thermal, found.crystal.numbers))
    title = f"{found.crystal.id}, {potential}"
    files.write(folder / "phonons.svg", drawing(title, path, said.bands, said.density))
    io.write_crystals([found.crystal], folder / "crystal.cif")
    files.write(folder / "summary.json", json.dumps(summary(said) | {"potential": potential}, indent=1))


def _thermal_table(thermal: Thermal, numbers: np.ndarray) -> str:
    """Of a primitive cell, and of a mole of formula units, which does not depend on how many a cell holds."""
    names = ["temperature_k", "free_energy_ev_per_cell", "entropy_ev_per_k_per_cell", "heat_capacity_ev_per_k_per_cell",
             "free_energy_kj_per_mol_formula", "entropy_j_per_k_per_mol_formula",
             "heat_capacity_j_per_k_per_mol_formula"]  # fmt: skip
    per_mole = KJ_PER_MOL_EV / formula_units(numbers)
    of_formula = (
        thermal.free_energy * per_mole,
        thermal.entropy * per_mole * 1e3,
        thermal.heat_capacity * per_mole * 1e3,
    )
    return _csv(names, zip(*thermal[:4], *of_formula))


def _csv(names: list[str], rows: Iterable[Iterable[float]]) -> str:
    return files.csv_text(names, ([f"{v:.8g}" for v in row] for row in rows))


def drawing(title: str, path: BandPath, bands: np.ndarray, density: Dos) -> str:
    """A standalone SVG: bands along the path, and the density of states at their side on the same scale."""
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

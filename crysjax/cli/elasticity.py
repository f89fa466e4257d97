"""`crysjax elasticity`: elastic constants, moduli and equations of state by an interatomic potential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.terminal import bar, printable, say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.physics.elasticity.driver import Curves, Elastic

TENSORS = ("tensor_gpa", "clamped_ion_tensor_gpa", "residual_stress_gpa", "frame_axes")


def elasticity(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    out: Path = typer.Option(..., help=".json or .csv: one row per crystal."),
    potential: str = typer.Option("student", help="Name or path; the student is quick and too soft, see README."),
    relax: bool = typer.Option(True, help="Relax positions and cell first; elastic constants are those at rest."),
    steps: int = typer.Option(500, min=1, help="Most steps of a relaxation."),
    fmax: float = typer.Option(0.01, min=0, help="Largest force that counts as relaxed, eV/Å."),
    eos: bool = typer.Option(True, "--eos/--no-eos", help="Equation of state too: Birch-Murnaghan, ions relaxed."),
    eos_range: float = typer.Option(0.06, help="Volumes of the equation of state: this share below and above."),
    remedy: int = typer.Option(0, min=0, help="Follow soft internal modes to lower polymorphs, at most so many times."),
    structures: Path = typer.Option(None, help="Relaxed crystals; left out, NAME_relaxed.extxyz beside --out."),
) -> None:
    """Elastic tensor with relaxed ions, Voigt-Reuss-Hill moduli, stability, Debye temperature, equation of state.

    Tensors lie along the axes of the IEEE standard, which the crystal fixes and which each row states.
    """
    from crysjax.data import files
    from crysjax.physics.elasticity import driver
    from crysjax.physics.elasticity.soft_ions import SOFT, remedied
    from crysjax.potentials.relax import Relax

    if out.suffix not in (".json", ".csv"):
        raise ValueError(f"--out {out}: expected a name that ends in .json or .csv")
    if not 0 < eos_range < 0.5:
        raise ValueError(f"--eos-range {eos_range}: expected a share of the volume above 0 and below 0.5")
    engine, params, _ = registry.load_potential(potential)
    dataset, settings = read_part(crystals), Relax(fmax_ev_angstrom=fmax)
    with bar("elasticity") as advance:
        found = driver.elasticity(
            engine, params, dataset, relax=relax, settings=settings, max_steps=steps, progress=advance
        )
    curves, gain = None, None
    if remedy:
        asked = {"times": remedy, "settings": settings, "max_steps": steps}
        found, gain = remedied(engine, params, found, **asked)
    if eos:
        curves = driver.equations_of_state(
            engine, params, found.crystals, strain=eos_range, settings=settings, max_steps=steps
        )
    rows = _rows(found, curves, gain)
    files.write(out, json.dumps(rows, indent=1) + "\n" if out.suffix == ".json" else _csv(rows))
    unstable = int((found.valid & ~found.moduli.stable).sum())
    failed = int((~found.valid).sum())
    where = structures or out.with_name(f"{out.stem}_relaxed.extxyz")
    if written := _write_relaxed(found, where):
        say(f"{where}: {written} crystals as they were asked about, {'relaxed' if relax else 'as given'}")
    say(f"{out}: {len(rows)} crystals, {unstable} elastically unstable, {failed} failed")
    for row in rows:
        if row["reason"]:
            hint = "; --remedy follows them to a lower polymorph" if row["reason"] == SOFT and not remedy else ""
            say(f"{printable(row['id'])}: {row['reason']}{hint}", err=True)


def _write_relaxed(found: Elastic, where: Path) -> int:
    """The cells that the tensors belong to; how many there are. One without a volume is in none of the formats."""
    import numpy as np

    from crysjax.data import datasets
    from crysjax.data.readers import io

    lattice = found.crystals.lattice.astype(float)
    finite = np.isfinite(lattice).all((1, 2))
    sound = finite & (np.abs(np.linalg.det(np.where(finite[:, None, None], lattice, 0))) > 1e-3)
    sound &= [bool(np.isfinite(entry.frac).all()) for entry in datasets.entries(found.crystals)]
    some = datasets.take(found.crystals, sound)
    if len(some):
        datasets.save(some, where) if where.suffix == ".npz" else io.write_crystals(some, where)
    return len(some)


def _rows(found: Elastic, curves: Curves | None, gain: np.ndarray | None) -> list[dict]:
    """One dictionary per crystal; what is not known is None."""
    from crysjax.chemistry.elements import formula
    from crysjax.data import datasets
    from crysjax.data.reasons import code
    from crysjax.physics.elasticity.frames import RULES

    named = {f"{name}_gpa" if name not in ("poisson", "anisotropy") else name: x
             for name, x in found.moduli._asdict().items() if name != "stable"}  # fmt: skip
    rows = []
    for k, entry in enumerate(datasets.entries(found.crystals)):
        good = bool(found.valid[k])
        row = {"id": entry.id, "formula": formula(entry.numbers), "reason": str(found.reason[k])}
        row["code"] = code(row["reason"])
        row["born_stable"] = bool(found.moduli.stable[k]) if good else None
        row |= {key: _number(x[k], good) for key, x in named.items()}
        row["debye_temperature_k"] = _number(found.debye_temperature_k[k], good)
        row["density_g_cm3"] = _number(found.density[k], good)
        if curves is not None:
            row |= {"eos_reason": str(curves.reason[k])} | _curve(curves, k, len(entry.numbers))
        for key, tensor in (("tensor_gpa", found.tensor_gpa), ("clamped_ion_tensor_gpa", found.clamped_gpa)):
            row[key] = tensor[k].round(3).tolist() if good else None
        row["residual_stress_gpa"] = found.stress_gpa[k].round(4).tolist() if good else None
        row["crystal_system"] = (found.system[k] or "unknown") if good else None
        row["frame"] = f"{'IEEE 176-1987: ' * bool(found.system[k])}{RULES[found.system[k]]}" if good else None
        row["frame_axes"] = found.axes[k].round(6).tolist() if good else None
        if gain is not None:
            row["remedy_gain_ev_per_atom"] = float(gain[k])
        rows.append(row)
    return rows


def _curve(curves: Curves, k: int, atoms: int) -> dict:
    """Volume and energy per atom, bulk modulus and its slope."""
    fit, good = curves.fit, bool(curves.valid[k])
    return {
        "eos_volume_a3_per_atom": _number(fit.volume[k] / atoms, good),
        "eos_energy_ev_per_atom": _number(fit.energy[k] / atoms, good),
        "eos_bulk_gpa": _number(fit.bulk_gpa[k], good),
        "eos_bulk_slope": _number(fit.slope[k], good),
    }


def _number(value: float, good: bool) -> float | None:
    return float(f"{float(value):.6g}") if good else None


def _csv(rows: list[dict]) -> str:
    """The same as a table: the tensor's 21 components by name, the other tensors left out."""
    import csv
    import io

    flat = []
    for row in rows:
        tensor = row["tensor_gpa"] or [[None] * 6] * 6
        named = {f"c{i + 1}{j + 1}_gpa": tensor[i][j] for i in range(6) for j in range(i, 6)}
        flat.append({key: value for key, value in row.items() if key not in TENSORS} | named)
    text = io.StringIO()
    table = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()
